# What the shell itself does with processes, signals and files.
trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo on exit' EXIT
coproc cat; echo hello >&"${COPROC[1]}"; read -r x <&"${COPROC[0]}"; echo "$x"; eval "exec ${COPROC[1]}>&-"; wait "$COPROC_PID" 2>/dev/null
mapfile -t a < <(seq 5); echo "${#a[@]} ${a[4]}"
exec 7<>/tmp/rw; echo abc >&7; read -r -t 0.1 y <&7; echo "$? [$y]"; exec 7>&-; cat /tmp/rw
read -t 0.05 z < <(sleep 5); echo $?
cat <<END
$(( $(echo 6) * 7 )) ${HOME/root/x} $(printf '%s' a{1..3})
END
set -o pipefail; false | true; echo $?; (exit 3) | cat; echo $?
for i in 1 2 3; do { exit $i; } & done; wait -n; s=$?; [ $s -ge 1 ] && echo one; wait
sleep 100 & while [ "$(ps -o comm= $!)" != sleep ]; do :; done; kill -STOP $!; while [ "$(ps -o s= $!)" != T ]; do :; done; kill -CONT $!; kill $!; wait $!; echo $?
( ulimit -f 10; trap '' XFSZ; head -c 100000 /dev/zero >/tmp/limited; ) 2>&1 | tail -1; stat -c %s /tmp/limited
( ulimit -n 10; exec 8</dev/null 9</dev/null 2>/dev/null; cat </dev/null; echo $? )
( ulimit -v 50000; python3 -c 'x = bytearray(100 << 20)' ) 2>&1 | tail -1
( ( ulimit -t 1; bash -c 'while :; do :; done' ); echo $?; bash -c 'kill -SEGV $$'; echo $? ) 2>/dev/null
bash -c 'echo $0 $@' name a 'b c'; echo $SHLVL ${#BASH_VERSION} >/dev/null; type ls; command -v bash; hash -r; times >/dev/null; umask
printf '#!/bin/bash\necho "script $1 from $0"\n' >/tmp/s; chmod +x /tmp/s; /tmp/s 1; printf '#!/tmp/s\n' >/tmp/s2; chmod +x /tmp/s2; /tmp/s2 2; printf '#!/nonexistent\n' >/tmp/s3; chmod +x /tmp/s3; /tmp/s3; echo $?; printf 'echo plain $0' >/tmp/s4; chmod +x /tmp/s4; /tmp/s4; echo $?; printf '#!/usr/bin/env -S perl -w\nprint "perl @ARGV\\n"' >/tmp/s5; chmod +x /tmp/s5; /tmp/s5 a b; printf '\x7fELF' >/tmp/s6; chmod +x /tmp/s6; /tmp/s6; echo $?; /tmp; echo $?; /etc/passwd; echo $?
f() { local n=$1; [ $n -eq 0 ] && return 0; f $((n - 1)); echo -n "$n "; }; f 50; echo
x=$(head -c 1000000 /dev/zero | tr '\0' x); echo ${#x}; echo "$x" | wc -c; /bin/echo "${x:0:100000}" | wc -c; /bin/echo "${x:0:200000}" 2>&1 | wc -c
shopt -s extglob nullglob; cd /etc; echo pass* !(*a*|*e*|*o*); compgen -A user | head -3
