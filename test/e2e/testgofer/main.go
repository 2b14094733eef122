// Testgofer takes the gofer's command line and serves nothing: it ends when its
// connections are closed.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

func main() {
	var conns []*os.File
	attach := 0
	report := -1
	flag.Func("attach", "FD:ro|rw[:name]", func(s string) error {
		parts := strings.SplitN(s, ":", 3)
		fd, err := strconv.Atoi(parts[0])
		if err != nil || len(parts) < 2 || parts[1] != "ro" && parts[1] != "rw" {
			return fmt.Errorf("bad attach %q", s)
		}
		if _, err := os.NewFile(uintptr(fd), "attach").Stat(); err != nil {
			return err
		}
		attach++
		return nil
	})
	flag.Func("conn", "FD", func(s string) error {
		fd, err := strconv.Atoi(s)
		conns = append(conns, os.NewFile(uintptr(fd), "conn"))
		return err
	})
	flag.IntVar(&report, "report-fd", -1, "")
	flag.Int("log-fd", -1, "")
	flag.Bool("no-jail", false, "")
	flag.Parse()
	if len(conns) != attach {
		os.NewFile(uintptr(report), "report").WriteString("as many --conn as --attach are needed")
		os.Exit(1)
	}
	if os.Getenv("TESTGOFER_FAIL") != "" {
		os.Exit(1)
	}
	os.NewFile(uintptr(report), "report").Close()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Add(1)
		go func() {
			defer all.Done()
			b := make([]byte, 1)
			for {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}()
	}
	all.Wait()
}
