// Package clock tells the time and wakes people up, finely and without ticking.
//
// # Time
//
// A Keeper knows the host's clocks as linear functions of the processor's time
// stamp counter (TSC) and answers from those: 20 ns instead of a 170 ns system
// call. The functions live in a Page, which can be shared read-only with
// applications, whose vDSO answers from the same numbers: a clock read through
// the vDSO and then through a system call never goes backwards.
//
// A Page says for how many cycles its numbers hold. A reader that finds them
// expired asks the Keeper (the vDSO does so by the real system call), which
// compares with the host and writes new ones. So the numbers are kept right by
// those who use them, no oftener than about once a second, and nothing runs
// when nobody asks. How long numbers hold follows from how long the Keeper has
// watched the host: the error at the end of that time stays below a microsecond,
// unless the host's clock changes its rate meanwhile.
//
// A correction never sets CLOCK_MONOTONIC back. Within the validity of the old
// numbers the clock goes on where it is and is steered by changing its rate;
// after that, when nobody can have seen a later value, it is set. CLOCK_REALTIME,
// CLOCK_BOOTTIME and CLOCK_TAI are CLOCK_MONOTONIC plus an offset that only
// changes when the host's does.
//
// Where the host does not trust its TSC (HostTSCReliable is false), the Keeper
// asks the host each time and the Page never becomes valid.
//
// # Waiting
//
// Go's timers are late by a millisecond, as the runtime's poller sleeps in whole
// milliseconds, and the host's default timer slack adds 50 us. There are two
// ways around it:
//
//	Sleeper  the goroutine sleeps in a futex wait of its own, and can be
//	         woken. It occupies a host thread: for short waits.
//	Queue    one goroutine sleeps for all timers and runs their functions.
//
// Both learn how late the host's timers are at best, sleep that much shorter and
// wait out what is left, a few microseconds at the most, awake.
//
// Measured on a busy 2-core VM, sleeping 50 us, from call to return (see
// BenchmarkSleep50us):
//
//	                                               median   90 %
//	nanosleep(2) with 1 ns of timer slack, in C     80 us   90 us
//	time.Sleep                                    1,070 us 1,100 us
//	Sleeper                                         65 us   78 us
//	Queue that wakes a goroutine by a channel       75 us   91 us
//
// The Queue's goroutine is not locked to its thread, and yields after running
// functions: the goroutine that was woken runs on the spot, where waking another
// thread would cost 20 us and more.
//
// Both sleep in one host call with an absolute deadline of CLOCK_MONOTONIC and
// make no wake-ups before it; a Queue without timers sleeps without a deadline.
//
// Lock order: Keeper.mu and Queue.mu are leaves; the functions of timers are
// called without locks.
//
// Not here: CPU-time clocks, which are the scheduler's, and timers of other
// clocks than CLOCK_MONOTONIC: convert, and re-arm when CLOCK_REALTIME is set.
package clock
