// Sentry is the kernel of one sandbox. runsc starts it; see package process for
// its command line and its life.
package main

import (
	"errors"

	"vitrine/runsc/sentry/process"
)

func main() { process.Main(prepare) }

// prepare makes the kernel.
func prepare(*process.Options) (process.Kernel, error) {
	return nil, errors.New("this sentry was built without a kernel")
}
