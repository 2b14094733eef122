package systrap

import (
	"testing"

	"vitrine/pkg/sentry/platform/platformtest"
)

func TestSuite(t *testing.T) {
	p := start(t)
	for _, test := range platformtest.All() {
		t.Run(test.Name, func(t *testing.T) { test.Run(t, p) })
	}
}

func start(t *testing.T) *Platform {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
