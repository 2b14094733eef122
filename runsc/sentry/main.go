// Sentry is the kernel of one sandbox. runsc starts it; see package process for
// its command line and its life.
package main

import (
	"vitrine/pkg/sentry/boot"
	"vitrine/runsc/sentry/process"
)

func main() { process.Main(prepare) }

// prepare makes the kernel.
func prepare(o *process.Options) (process.Kernel, error) {
	s, err := boot.Prepare(&boot.Options{
		Platform: o.Platform, TotalMemory: o.TotalMemory, CPUs: o.CPUs, MaxTasks: o.MaxTasks, Strace: o.Strace, Debug: o.Debug, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}
