package mqueue

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
)

func TestThereAreNoQueues(t *testing.T) {
	s := fstest.New(New(auth.RootKUID, auth.RootKGID))
	if names, err := s.ReadDir("/"); err != nil || !slices.Equal(names, []string{". 4", ".. 4"}) {
		t.Errorf("it holds %q, %v", names, err)
	}
	if _, err := s.Open("/q", unix.O_CREAT|unix.O_RDWR, 0o600); err != unix.ENOSYS {
		t.Errorf("making a queue: %v", err)
	}
	if st, err := s.Stat("/"); err != nil || st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("its mode is %o, %v", st.Mode, err)
	}
}
