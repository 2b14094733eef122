package cpuid

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// linker is a program with all forms of code.
const linker = "/lib64/ld-linux-x86-64.so.2"

// TestDecodeAgreesWithObjdump decodes the dynamic linker. What isn't decoded must be
// rare, what is must have the right length.
func TestDecodeAgreesWithObjdump(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("needs objdump")
	}
	program := linker
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs a program of this host: ", err)
	}
	out, err := exec.Command(objdump, "-d", "-w", "-j", ".text", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	total, unknown := 0, 0
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		if len(f) < 3 || strings.Contains(f[2], "(bad)") {
			continue
		}
		code, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(f[1]), " ", ""))
		if err != nil {
			t.Fatal(lines.Text())
		}
		// What follows must not matter.
		in, ok := decode(append(bytes.Clone(code), bytes.Repeat([]byte{0xff}, 16)...))
		total++
		if !ok {
			unknown++
			continue
		}
		if in.length != len(code) {
			t.Errorf("%s: length %d", lines.Text(), in.length)
		}
		if strings.Contains(f[2], "(%rip)") != (in.relative != 0) {
			t.Errorf("%s: relative at %d", lines.Text(), in.relative)
		}
		name := strings.TrimPrefix(strings.Fields(f[2])[0], "bnd")
		jumps := name[0] == 'j' || strings.HasPrefix(name, "call") || strings.HasPrefix(name, "ret")
		if jumps && !in.jumps {
			t.Errorf("%s: taken for one that doesn't jump", lines.Text())
		}
	}
	t.Logf("%d instructions, %d unknown", total, unknown)
	if total < 1000 || unknown > total/20 {
		t.Errorf("of %d instructions %d weren't decoded", total, unknown)
	}
}
