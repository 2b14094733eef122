package workloads

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/test/terminal"
)

// typist sits at a terminal: it types, and waits for what it expects to see.
type typist struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu   sync.Mutex
	seen strings.Builder
	// from is where the text begins in which nothing expected was found yet.
	from int
	more chan struct{}
}

// sit starts cmd on a new terminal of 24 lines of 80.
func sit(t *testing.T, cmd *exec.Cmd) *typist {
	t.Helper()
	master, slave := terminal.Open(t)
	defer slave.Close()
	p := &typist{t: t, master: master, cmd: cmd, more: make(chan struct{}, 1)}
	p.resize(24, 80)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			p.mu.Lock()
			p.seen.Write(b[:n])
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *typist) resize(rows, columns uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *typist) types(s string) {
	p.t.Helper()
	if _, err := p.master.WriteString(s); err != nil {
		p.t.Fatal(err)
	}
}

// expect waits until text appears after all that was expected before. What is
// typed appears too: texts are such that only the program writes them.
func (p *typist) expect(text string) {
	p.t.Helper()
	late := time.After(patience)
	for {
		p.mu.Lock()
		s := p.seen.String()
		p.mu.Unlock()
		if at := strings.Index(s[p.from:], text); at >= 0 {
			p.from += at + len(text)
			return
		}
		select {
		case <-p.more:
		case <-late:
			p.t.Fatalf("%q didn't appear after\n%s\nbut\n%q", text, s[:p.from], s[p.from:])
		}
	}
}

// end waits for the program and checks its exit status.
func (p *typist) end(code int) {
	p.t.Helper()
	done := make(chan struct{})
	go func() { p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		p.t.Fatalf("it doesn't end after\n%s", p.seen.String())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit status %d, want %d", got, code)
	}
}

// work is a session with bash as people have them.
func (p *typist) work() {
	p.t.Helper()
	p.types("echo a$((1))b; stty size\n")
	p.expect("a1b\r\n")
	p.expect("24 80\r\n")
	// A signal for what runs in the foreground, not for the shell.
	p.types("sh -c 'echo r$((1 + 1)); exec sleep 100'\n")
	p.expect("r2\r\n")
	p.types("\x03")
	p.types("echo st$?\n")
	p.expect("st130\r\n")
	// Stopped, and going on in the background.
	p.types("sh -c 'echo r$((1 + 2)); exec sleep 100'\n")
	p.expect("r3\r\n")
	p.types("\x1a")
	p.expect("Stopped")
	p.types("echo st$?; jobs\n")
	p.expect("st148\r\n")
	p.expect("Stopped")
	p.types("bg; jobs\n")
	p.expect("Running")
	p.types("kill %1; wait %1; echo st$?\n")
	p.expect("st143\r\n")
	// Who reads from the background is stopped until it has the terminal.
	p.types("sh -c 'read x; echo got $x$((2 + 2))' &\n")
	p.types("while :; do jobs; jobs | grep -q Stopped && break; done; echo q$((5))\n")
	p.expect("q5\r\n")
	p.types("fg\n")
	p.types("line\n")
	p.expect("got line4\r\n")
	// A pipeline is one job. Nobody in it writes: who sees that the reader is gone before
	// it acts upon the signal ends by SIGPIPE.
	p.types("sleep 100 | sh -c 'echo r$((3 + 3)); exec cat >/dev/null'\n")
	p.expect("r6\r\n")
	p.types("\x03")
	p.types("echo st$? ${PIPESTATUS[*]}\n")
	p.expect("st130 130 130\r\n")
	// The end of input, and what a line can be edited with.
	p.types("cat; echo end$((7))\n")
	p.types("wrong\x15right\x7f\x7f\n\x04")
	p.expect("rig\r\nend7\r\n")
	// A new size is told.
	p.types("trap 'seen=1' WINCH; echo w$((8)); while [ -z \"$seen\" ]; do :; done; stty size\n")
	p.expect("w8\r\n")
	p.resize(30, 100)
	p.expect("30 100\r\n")
	p.types("stty -echo; echo e$((9))\n")
	p.expect("e9\r\n")
	p.types("exit 7\n")
	p.end(7)
}

// interactive is a bash that reads no files of its own and edits no lines,
// which would need to know the terminal's answers.
var interactive = []string{"--norc", "--noprofile", "--noediting", "-i"}

func TestTerminal(t *testing.T) {
	i := open(t, "debian", "bash")
	t.Run("host", func(t *testing.T) {
		args := []string{"--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--propagation", "private", "bash", "-c",
			strings.Replace(chroot, "setsid -w", "setsid -wc", 1), "chroot", i.root, "bash"}
		sit(t, exec.Command("unshare", append(args, interactive...)...)).work()
	})
	t.Run("sandbox", func(t *testing.T) {
		dir, id := i.bundle(t, true, append([]string{"bash"}, interactive...)...)
		defer func() { exec.Command(runsc, flags(dir, "delete", "--force", id)...).Run() }()
		sit(t, exec.Command(runsc, flags(dir, "run", "--bundle", dir, id)...)).work()
	})
}

// TestExec runs further processes in a container.
func TestExec(t *testing.T) {
	i := open(t, "debian", "bash")
	dir, id := i.bundle(t, false, "sleep", "1000")
	defer func() { exec.Command(runsc, flags(dir, "delete", "--force", id)...).Run() }()
	// What is detached keeps its output open, and a pipe would be waited for.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	start := exec.Command(runsc, flags(dir, "run", "--detach", "--bundle", dir, id)...)
	start.Stdout, start.Stderr = out, out
	if err := start.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("run --detach: %v: %s", err, text)
	}
	got := run(t, runsc, flags(dir, "exec", id, "bash", "-c", "echo from exec; echo and >&2; ps -o comm= -p 1; ls /; exit 5")...)
	if got.code != 5 || got.stderr != "and\n" || !strings.HasPrefix(got.stdout, "from exec\nsleep\nbin\n") {
		t.Errorf("exec: %+v", got)
	}
	got = run(t, runsc, flags(dir, "exec", id, "bash", "-c", "kill -9 $$")...)
	if got.code != 128+9 {
		t.Errorf("exec of what is killed: %+v", got)
	}
	sit(t, exec.Command(runsc, flags(dir, append([]string{"exec", "--tty", id, "bash"}, interactive...)...)...)).work()
}
