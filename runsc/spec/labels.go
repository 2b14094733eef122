package spec

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where a host shows that it has AppArmor (apparmor(7)), and SELinux (selinux(8)).
var (
	appArmorEnabled = "/sys/module/apparmor/parameters/enabled"
	seLinuxMount    = "/sys/fs/selinux/enforce"
)

// unconfined is the AppArmor profile that asks for none.
const unconfined = "unconfined"

// hasAppArmor and hasSELinux say what the host has.
func hasAppArmor() bool {
	b, _ := os.ReadFile(appArmorEnabled)
	return strings.HasPrefix(string(b), "Y")
}

func hasSELinux() bool {
	_, err := os.Stat(seLinuxMount)
	return err == nil
}

// validateLabels refuses labels for a security module that the host hasn't, as runc
// does. Where it has it engines label each container; the label confines no
// process here, for no application is one of the host's: see Process.
func validateLabels(prefix string, p *specs.Process) error {
	if p.ApparmorProfile != "" && p.ApparmorProfile != unconfined && !hasAppArmor() {
		return fmt.Errorf("%sapparmorProfile %q is not supported: the host has no AppArmor", prefix, p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" && !hasSELinux() {
		return fmt.Errorf("%sselinuxLabel %q is not supported: the host has no SELinux", prefix, p.SelinuxLabel)
	}
	return nil
}

// labelWarnings say which labels have nothing to act upon.
func labelWarnings(p *specs.Process) []string {
	var warnings []string
	if p.ApparmorProfile != "" && p.ApparmorProfile != unconfined {
		warnings = append(warnings, "process.apparmorProfile: the profile confines no application here; the sandbox does")
	}
	if p.SelinuxLabel != "" {
		warnings = append(warnings, "process.selinuxLabel: the label confines no application here; the sandbox does")
	}
	return warnings
}
