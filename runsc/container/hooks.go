package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	"vitrine/pkg/control"
)

// runHooks runs the hooks of one point of the container's life in order; the
// first that fails ends it. All of them run in the namespaces of runsc:
// createContainer and startContainer too, which the OCI runtime spec wants in
// the container's, where no host program can run here.
func runHooks(name string, hooks []specs.Hook, s *State, pid int, status control.Status) error {
	if len(hooks) == 0 {
		return nil
	}
	state, err := json.Marshal(s.OCI(pid, status))
	if err != nil {
		return err
	}
	for i, h := range hooks {
		if err := runHook(&h, state); err != nil {
			return fmt.Errorf("hook %s[%d] %s: %w", name, i, h.Path, err)
		}
	}
	return nil
}

func runHook(h *specs.Hook, state []byte) error {
	ctx := context.Background()
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdin = bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = &output, &output
	// A grandchild that keeps the pipe must not hold us up.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("was killed after its timeout of %d s", *h.Timeout)
	}
	if said := strings.TrimSpace(output.String()); said != "" {
		if len(said) > 1024 {
			said = said[len(said)-1024:]
		}
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// OCI is the state object of the runtime spec.
func (s *State) OCI(pid int, status control.Status) *specs.State {
	version := s.OCIVersion
	if version == "" {
		version = specs.Version
	}
	return &specs.State{Version: version, ID: s.ID, Status: specs.ContainerState(status), Pid: pid,
		Bundle: s.Bundle, Annotations: s.Annotations}
}
