package spec

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What becomes of each field. A type of the runtime spec that gains a field fails
// the test below until somebody has decided what to do with it.
const (
	done    = "carried out"
	refused = "refused by name, where it asks for something"
	warned  = "accepted with a warning"
	told    = "no request: for people and engines"
	// labelled: the host's security module confines processes of the host, which no
	// application is here: where the host has one, engines send a label with each
	// container, and it has nothing to act upon. Where it has none, who asks for a
	// label asks for what isn't there, and is told so as by runc.
	labelled = "refused by name where the host hasn't the security module, accepted with a warning where it has"
)

var fields = map[string]string{
	"ociVersion": done, "process": done, "root": done, "hostname": done, "domainname": done, "mounts": done, "hooks": done,
	"annotations": told, "linux": done, "solaris": refused, "windows": refused, "vm": refused, "zos": refused,

	"process.terminal": done, "process.consoleSize": done, "process.consoleSize.height": done, "process.consoleSize.width": done,
	"process.user": done, "process.user.uid": done, "process.user.gid": done, "process.user.umask": done, "process.user.additionalGids": done,
	"process.user.username": refused, "process.args": done, "process.commandLine": refused, "process.env": done, "process.cwd": done,
	"process.capabilities": done, "process.capabilities.bounding": done, "process.capabilities.effective": done,
	"process.capabilities.inheritable": done, "process.capabilities.permitted": done, "process.capabilities.ambient": done,
	"process.rlimits": done, "process.rlimits.type": done, "process.rlimits.hard": done, "process.rlimits.soft": done,
	"process.noNewPrivileges": done, "process.apparmorProfile": labelled, "process.oomScoreAdj": done, "process.selinuxLabel": labelled,
	"process.scheduler": done, "process.scheduler.policy": done, "process.scheduler.nice": done, "process.scheduler.priority": done,
	"process.scheduler.flags": done, "process.scheduler.runtime": refused, "process.scheduler.deadline": refused, "process.scheduler.period": refused,
	"process.ioPriority": done, "process.ioPriority.class": done, "process.ioPriority.priority": done, "process.execCPUAffinity": refused,
	"process.execCPUAffinity.initial": refused, "process.execCPUAffinity.final": refused,

	"root.path": done, "root.readonly": done,
	"mounts.destination": done, "mounts.type": done, "mounts.source": done, "mounts.options": done, "mounts.uidMappings": refused, "mounts.gidMappings": refused,

	"linux.uidMappings": done, "linux.gidMappings": done, "linux.sysctl": done, "linux.resources": done, "linux.cgroupsPath": done,
	"linux.namespaces": done, "linux.namespaces.type": done, "linux.namespaces.path": done,
	"linux.devices": done, "linux.devices.path": done, "linux.devices.type": done, "linux.devices.major": done, "linux.devices.minor": done,
	"linux.devices.fileMode": done, "linux.devices.uid": done, "linux.devices.gid": done, "linux.seccomp": done,
	"linux.seccomp.defaultAction": done, "linux.seccomp.defaultErrnoRet": done, "linux.seccomp.architectures": told, "linux.seccomp.flags": done,
	"linux.seccomp.listenerPath": refused, "linux.seccomp.listenerMetadata": refused, "linux.seccomp.syscalls": done,
	"linux.seccomp.syscalls.names": done, "linux.seccomp.syscalls.action": done, "linux.seccomp.syscalls.errnoRet": done, "linux.seccomp.syscalls.args": done,
	"linux.seccomp.syscalls.args.index": done, "linux.seccomp.syscalls.args.value": done, "linux.seccomp.syscalls.args.valueTwo": done, "linux.seccomp.syscalls.args.op": done,
	"linux.rootfsPropagation": refused, "linux.maskedPaths": done, "linux.readonlyPaths": done, "linux.mountLabel": labelled, "linux.intelRdt": refused,
	"linux.personality": refused, "linux.personality.domain": refused, "linux.personality.flags": refused, "linux.timeOffsets": refused,

	"linux.resources.devices": warned, "linux.resources.memory": done, "linux.resources.cpu": done, "linux.resources.pids": done,
	"linux.resources.blockIO": refused, "linux.resources.hugepageLimits": refused, "linux.resources.network": refused, "linux.resources.rdma": refused,
	"linux.resources.unified": done, "linux.resources.pids.limit": done,
	"linux.resources.memory.limit": done, "linux.resources.memory.reservation": done, "linux.resources.memory.swap": done,
	"linux.resources.memory.kernel": refused, "linux.resources.memory.kernelTCP": refused, "linux.resources.memory.swappiness": refused,
	"linux.resources.memory.disableOOMKiller": refused, "linux.resources.memory.useHierarchy": done, "linux.resources.memory.checkBeforeUpdate": refused,
	"linux.resources.cpu.shares": done, "linux.resources.cpu.quota": done, "linux.resources.cpu.burst": refused, "linux.resources.cpu.period": done,
	"linux.resources.cpu.realtimeRuntime": refused, "linux.resources.cpu.realtimePeriod": refused, "linux.resources.cpu.cpus": done,
	"linux.resources.cpu.mems": done, "linux.resources.cpu.idle": refused,
}

// whole are the fields whose parts follow from what becomes of them, or that have
// the same parts everywhere.
var whole = []string{
	"hooks", "solaris", "windows", "vm", "zos", "linux.uidMappings", "linux.gidMappings", "linux.intelRdt", "linux.timeOffsets",
	"mounts.uidMappings", "mounts.gidMappings", "linux.resources.devices", "linux.resources.blockIO", "linux.resources.hugepageLimits",
	"linux.resources.network", "linux.resources.rdma", "process.user.umask",
}

func TestEveryFieldIsDecidedUpon(t *testing.T) {
	seen := map[string]bool{}
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || slices.Contains(whole, path) {
			return
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			at := strings.TrimPrefix(path+"."+name, ".")
			seen[at] = true
			if fields[at] == "" {
				t.Errorf("nobody has decided what becomes of %s", at)
			}
			walk(typ.Field(i).Type, at)
		}
	}
	walk(reflect.TypeFor[specs.Spec](), "")
	for f := range fields {
		if !seen[f] {
			t.Errorf("the runtime spec has no field %s", f)
		}
	}
}

// Labels are for the security module of a host that has it.
func TestLabels(t *testing.T) {
	config := `{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["a"],"cwd":"/","apparmorProfile":"docker-default","selinuxLabel":"system_u:s"},"linux":{"mountLabel":"system_u:m"}}`
	withModules(t, "Y", true)
	s, err := Parse([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	if _, warnings := Process(s.Process); len(warnings) != 2 {
		t.Errorf("warnings: %q", warnings)
	}
	for _, unconfined := range []string{"", "unconfined"} {
		withModules(t, "N", false)
		if _, err := Parse([]byte(strings.NewReplacer("docker-default", unconfined, "system_u:s", "", "system_u:m", "").Replace(config))); err != nil {
			t.Errorf("%q: %v", unconfined, err)
		}
	}
}

// withModules makes the host one with or without AppArmor and SELinux.
func withModules(t *testing.T, apparmor string, selinux bool) {
	t.Helper()
	dir := t.TempDir()
	before := []string{appArmorEnabled, seLinuxMount}
	t.Cleanup(func() { appArmorEnabled, seLinuxMount = before[0], before[1] })
	appArmorEnabled, seLinuxMount = dir+"/apparmor", dir+"/selinux"
	if err := os.WriteFile(appArmorEnabled, []byte(apparmor+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if selinux {
		if err := os.WriteFile(seLinuxMount, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Fields that are refused, each with a value that asks for something.
func TestRefusals(t *testing.T) {
	withModules(t, "N", false)
	for _, test := range []struct{ field, process, root, linux string }{
		{field: "solaris", root: `"solaris":{}`}, {field: "windows", root: `"windows":{"layerFolders":[]}`}, {field: "vm", root: `"vm":{"kernel":{"path":"/k"}}`}, {field: "zos", root: `"zos":{}`},
		{field: "process.user.username", process: `"user":{"uid":0,"gid":0,"username":"x"}`}, {field: "process.commandLine", process: `"commandLine":"x"`},
		{field: "process.selinuxLabel", process: `"selinuxLabel":"x"`}, {field: "process.execCPUAffinity", process: `"execCPUAffinity":{"initial":"0"}`},
		{field: "process.scheduler.runtime", process: `"scheduler":{"policy":"SCHED_OTHER","runtime":1}`},
		{field: "process.scheduler.flags", process: `"scheduler":{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_RECLAIM"]}`},
		{field: "process.scheduler.nice", process: `"scheduler":{"policy":"SCHED_OTHER","nice":20}`},
		{field: "process.scheduler.priority", process: `"scheduler":{"policy":"SCHED_OTHER","priority":1}`},
		{field: "process.ioPriority.class", process: `"ioPriority":{"class":"x","priority":0}`},
		{field: "process.apparmorProfile", process: `"apparmorProfile":"docker-default"`},
		{field: "linux.seccomp.defaultAction", linux: `"seccomp":{}`}, {field: "linux.seccomp.listenerPath", linux: `"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s"}`},
		{field: "linux.seccomp.flags[0]", linux: `"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}`},
		{field: "linux.seccomp.syscalls[0].action", linux: `"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`},
		{field: "linux.rootfsPropagation", linux: `"rootfsPropagation":"unbindable"`}, {field: "linux.mountLabel", linux: `"mountLabel":"x"`},
		{field: "linux.intelRdt", linux: `"intelRdt":{}`}, {field: "linux.personality", linux: `"personality":{"domain":"LINUX32"}`},
		{field: "linux.timeOffsets", linux: `"timeOffsets":{"monotonic":{"secs":1}}`},
		{field: "linux.uidMappings", linux: `"uidMappings":[{"containerID":0,"hostID":0,"size":1}]`},
		{field: "linux.uidMappings[0].size", linux: `"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":0}]`},
		{field: "linux.uidMappings[0] goes beyond", linux: `"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":2,"hostID":0,"size":4294967295}]`},
		{field: "linux.resources.memory.kernel", linux: `"resources":{"memory":{"kernel":5}}`}, {field: "linux.resources.memory.kernelTCP", linux: `"resources":{"memory":{"kernelTCP":5}}`},
		{field: "linux.resources.memory.swappiness", linux: `"resources":{"memory":{"swappiness":0}}`},
		{field: "linux.resources.memory.disableOOMKiller", linux: `"resources":{"memory":{"disableOOMKiller":true}}`},
		{field: "linux.resources.memory.checkBeforeUpdate", linux: `"resources":{"memory":{"checkBeforeUpdate":true}}`},
		{field: "linux.resources.memory.swap needs", linux: `"resources":{"memory":{"swap":5}}`},
		{field: "linux.resources.memory.swap 5 is below", linux: `"resources":{"memory":{"limit":6,"swap":5}}`},
		{field: "linux.resources.cpu.burst", linux: `"resources":{"cpu":{"burst":5}}`}, {field: "linux.resources.cpu.idle", linux: `"resources":{"cpu":{"idle":1}}`},
		{field: "linux.resources.cpu.realtimePeriod", linux: `"resources":{"cpu":{"realtimePeriod":5}}`},
		{field: "linux.resources.hugepageLimits", linux: `"resources":{"hugepageLimits":[{"pageSize":"2MB","limit":1}]}`},
		{field: "linux.resources.network", linux: `"resources":{"network":{"classID":1}}`}, {field: "linux.resources.rdma", linux: `"resources":{"rdma":{"x":{"hcaHandles":1}}}`},
		{field: "linux.resources.blockIO.throttleReadBpsDevice", linux: `"resources":{"blockIO":{"throttleReadBpsDevice":[{"major":1,"minor":1,"rate":1}]}}`},
	} {
		join := func(a, b string) string { return strings.Trim(a+","+b, ",") }
		config := `{"ociVersion":"1.0.2",` + join(test.root, `"root":{"path":"r"},"process":{`+join(`"args":["a"],"cwd":"/"`, test.process)+`},"linux":{`+test.linux+`}`) + `}`
		if _, err := Parse([]byte(config)); err == nil || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: error is %v", test.field, err)
		}
	}
}
