package main

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
)

// unit says how a value is printed, and whether more is better.
type unit int

const (
	nanoseconds unit = iota
	bytesPerSecond
	byteCount
	perSecond
	calls
)

// row is one operation.
type row struct {
	name string
	unit unit
	// measure runs it once on a subject, which takes all it prepares and
	// cleans up.
	measure func(*bench, subject) (float64, error)
	// noNative means that it is about the sandbox alone.
	noNative bool
	// oneCPU means that it is kept to one CPU, and says the same as the row
	// without that where there is only one.
	oneCPU bool
}

// op is a row that the program ops measures.
func op(name string, args ...string) row {
	return row{name: name, measure: func(b *bench, s subject) (float64, error) { return b.ops(s, false, args) }}
}

// pinned is the same, with all processes of the sandbox kept to one CPU.
func pinned(name string, args ...string) row {
	return row{name: name, oneCPU: true, measure: func(b *bench, s subject) (float64, error) { return b.ops(s, true, args) }}
}

func throughput(name string, args ...string) row {
	r := op(name, args...)
	r.unit = bytesPerSecond
	return r
}

const shellLoop = "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"

const imports = "import os, sys, re, json, math, random, datetime, collections, itertools, functools, " +
	"subprocess, threading, socket, logging, argparse, tempfile, shutil, hashlib, urllib.request, unittest"

const arithmetic = "x = 0\nfor i in range(3000000):\n    x = (x * 3 + i) & 0xffff\n"

var rows = []row{
	{name: "start-up", measure: (*bench).startUp},
	{name: "start-up, CPU used", measure: (*bench).startUpCPU},
	{name: "idle memory", unit: byteCount, measure: (*bench).idleMemory, noNative: true},
	{name: "idle wake-ups", unit: perSecond, measure: (*bench).idleWakeups, noNative: true},
	op("getpid", "getpid"),
	op("getpid, inlined", "getpid-inline"),
	op("read of 1 byte", "read"),
	pinned("read of 1 byte, one CPU", "read"),
	op("clock_gettime, call", "clock-syscall"),
	op("clock_gettime, vDSO", "clock-vdso"),
	op("sched_yield", "yield"),
	op("nanosleep of 50 us", "nanosleep"),
	op("futex ping-pong", "futex"),
	op("pipe ping-pong", "pipe"),
	op("unix socket ping-pong", "unix"),
	op("thread create, join", "thread"),
	op("fork, wait", "fork"),
	op("fork, exec, wait", "exec"),
	op("sh, 500 x /bin/true", "command", "/bin/sh", "-c", shellLoop),
	op("mmap, touch, munmap 1 MiB", "mmap"),
	op("page fault, sequential", "fault-sequential"),
	op("page fault, random", "fault-random"),
	op("signal to self", "signal"),
	op("stat, 1000 files", "stat"),
	op("open, read, close", "open"),
	op("create, unlink, root", "create-root"),
	op("create, unlink, tmpfs", "create-tmpfs"),
	op("random pread of 4 KiB", "pread"),
	throughput("write 256 MiB, root", "write-root"),
	throughput("read 256 MiB, root", "read-root"),
	throughput("write 256 MiB, tmpfs", "write-tmpfs"),
	throughput("read 256 MiB, tmpfs", "read-tmpfs"),
	op("find /usr", "command", "/usr/bin/find", "/usr", "-type", "f"),
	op("python3 -c pass", "command", "/usr/bin/python3", "-c", "pass"),
	op("python3, 20 imports", "command", "/usr/bin/python3", "-c", imports),
	op("python3, arithmetic", "command", "/usr/bin/python3", "-c", arithmetic),
	op("make -j4, 100 C files", "build"),
	op("200 threads, read", "crowd-reads"),
	op("200 threads, sched_yield", "crowd-yields"),
	hostCalls("host calls: getpid", 50000, "getpid"),
	hostCalls("host calls: read, 1 byte", 50000, "read"),
	hostCalls("host calls: pread, 4 KiB", 50000, "pread"),
	hostCalls("host calls: futex wake", 50000, "futex-wake"),
	hostCalls("host calls: ping-pong", 10000, "futex"),
	hostCalls("host calls: fault, seq.", 65536, "fault-sequential"),
	hostCalls("host calls: fault, random", 65536, "fault-random"),
}

//go:embed targets.txt
var targetsText string

// targets returns what the rows are to reach on a platform, by name: nil where
// the table says "-".
func targets(text, platform string) (map[string]*float64, error) {
	column := -1
	t := map[string]*float64{}
	for _, line := range strings.Split(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Split(line, "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if fields[0] == "row" {
			for i, f := range fields {
				if f == platform {
					column = i
				}
			}
			continue
		}
		if column < 0 || column >= len(fields) {
			continue
		}
		if fields[column] == "-" {
			t[fields[0]] = nil
			continue
		}
		v, err := parse(fields[column])
		if err != nil {
			return nil, fmt.Errorf("targets.txt: %s: %w", fields[0], err)
		}
		t[fields[0]] = &v
	}
	return t, nil
}

// scales are the suffixes of values, in what rows are measured in.
var scales = []struct {
	suffix string
	factor float64
	unit   unit
}{
	{"MiB/s", 1 << 20, bytesPerSecond},
	{"MiB", 1 << 20, byteCount},
	{"/s", 1, perSecond},
	{"calls", 1, calls},
	{"ns", 1, nanoseconds},
	{"us", 1e3, nanoseconds},
	{"ms", 1e6, nanoseconds},
}

// parse reads a value as format writes it.
func parse(s string) (float64, error) {
	for _, sc := range scales {
		if n, ok := strings.CutSuffix(s, " "+sc.suffix); ok {
			v, err := strconv.ParseFloat(n, 64)
			return v * sc.factor, err
		}
	}
	return 0, fmt.Errorf("%q has no unit that is known", s)
}

// format writes a value with three or four digits.
func format(v float64, u unit) string {
	best := -1
	for i, sc := range scales {
		if sc.unit == u && (best < 0 || v >= 10*sc.factor) {
			best = i
		}
	}
	sc := scales[best]
	v /= sc.factor
	digits := 0
	switch {
	case v == 0 || v >= 100:
	case v >= 10:
		digits = 1
	default:
		digits = 2
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + sc.suffix
}
