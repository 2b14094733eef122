package kernel

import "testing"

func TestTimerAdvances(t *testing.T) {
	for _, c := range []struct{ expires, period, now, next, missed int64 }{
		{100, 10, 50, 100, 0},
		{100, 10, 100, 110, 0},
		{100, 10, 109, 110, 0},
		{100, 10, 110, 120, 1},
		{100, 10, 1005, 1010, 90},
		{100, 0, 200, 0, 0},
	} {
		if next, missed := advance(c.expires, c.period, c.now); next != c.next || missed != c.missed {
			t.Errorf("advance(%d, %d, %d) = %d, %d; want %d, %d", c.expires, c.period, c.now, next, missed, c.next, c.missed)
		}
	}
}
