# Perl: processes, sockets, signals, files.
cat >/tmp/t.pl <<'END'
use strict; use warnings;
use Socket; use IO::Handle; use IO::Select; use IO::Socket::UNIX; use POSIX qw(:sys_wait_h :signal_h); use Fcntl qw(:flock :seek :mode);
$| = 1;
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
$_->autoflush(1) for $a, $b;
my $pid = fork // die;
if (!$pid) { close $a; while (<$b>) { chomp; print $b scalar reverse($_), "\n" } exit 7 }
close $b;
for (qw(one two three)) { print $a "$_\n"; print scalar <$a> }
shutdown($a, 1);
waitpid($pid, 0); print "child: ", $? >> 8, "\n";

my $path = "/tmp/perl.sock";
my $server = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $path, Listen => 5) or die "listen: $!";
my @kids;
for my $n (1 .. 5) {
	push @kids, my $p = fork // die;
	next if $p;
	my $c = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path) or die "connect: $!";
	print $c "hello from $n\n"; print $c "x" x 100000, "\n"; shutdown($c, 1); my $r = <$c>; exit($r eq "bye $n\n" ? 0 : 1);
}
my (%who, @lines); my $sel = IO::Select->new($server);
for (my $left = 5; $left;) {
	for my $h ($sel->can_read) {
		if ($h == $server) { $sel->add(scalar $server->accept); next }
		my $n = sysread($h, my $buf, 65536);
		if ($n) { $who{$h} .= $buf; next }
		$who{$h} =~ /^hello from (\d)\n(x+)\n$/ or die "got something else"; push @lines, "$1: " . length($2);
		print $h "bye $1\n"; $sel->remove($h); delete $who{$h}; close $h; $left--;
	}
}
print "$_\n" for sort @lines;
waitpid($_, 0), print "$? " for @kids; print "\n";
my $peer = getpeername(IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path)); print scalar(unpack_sockaddr_un($peer)), "\n";

my $got = 0; local $SIG{USR1} = sub { $got++ }; kill USR1 => $$ for 1 .. 3; print "signals $got\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 30; }; print "after: $@";
local $SIG{CHLD} = sub { while ((my $p = waitpid(-1, WNOHANG)) > 0) { print "reaped ", $? & 127, "\n" } };
my $victim = fork // die; if (!$victim) { $SIG{CHLD} = 'DEFAULT'; sleep 60; exit }
# Blocked but for the sleep: a SIGCHLD between the question and sigsuspend would leave nobody to wake it.
my ($chld, $none) = (POSIX::SigSet->new(SIGCHLD), POSIX::SigSet->new); sigprocmask(SIG_BLOCK, $chld, $none);
kill TERM => $victim; sigsuspend($none) while kill 0 => $victim; sigprocmask(SIG_SETMASK, $none);
$SIG{CHLD} = 'DEFAULT';

pipe(my $r, my $w); my $k = fork // die; if (!$k) { close $r; print $w "line $_\n" for 1 .. 1000; close $w; exit } close $w; my @l = <$r>; print scalar(@l), " $l[-1]"; waitpid $k, 0;
print `echo from a shell; exit 3`, $? >> 8, "\n"; system("kill -9 \$\$"); print $? & 127, "\n";
open my $f, '+>', "/tmp/f" or die; flock($f, LOCK_EX | LOCK_NB) or die; print $f "abc" x 1000; seek $f, 1500, SEEK_SET; read $f, my $s, 6; print "$s\n"; truncate $f, 10; close $f; print -s "/tmp/f", "\n";
my @st = stat "/tmp/f"; printf "%o %d\n", S_IMODE($st[2]), $st[3];
utime 1000, 2000, "/tmp/f"; print join(" ", (stat "/tmp/f")[8, 9]), "\n";
open($f, '<', "/nonexistent") or print "$!\n"; opendir(my $d, "/etc") or die; print scalar(grep { /^pass/ } readdir $d), "\n";
my @pw = getpwnam("user"); print "@pw[0, 2, 3, 7, 8]\n";
print join(" ", map { $_ * 2 } (POSIX::uname())[0, 4] ? 1 .. 3 : ()), "\n";
($<, $>) = (1000, 1000); open($f, '>', "/etc/x") or print "$! as $>\n";
END
perl -w /tmp/t.pl
perl -MDigest::SHA=sha256_hex -e 'print sha256_hex(join ",", 1..200000), "\n"'
perl -e 'use threads; my @t = map { my $n = $_; threads->create(sub { my $s = 0; $s += $_ for 1..10000*$n; $s }) } 1..6; print $_->join, "\n" for @t'
