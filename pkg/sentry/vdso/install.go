package vdso

import (
	"errors"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// Install writes a new image into m, behind DataSize bytes for the clocks, and returns
// the clocks' page, for clock.Keeper.Share, and the image's size. m is an object of
// the memory file that is at least Size bytes long; its first pages stay in
// memory from then on.
func Install(m memmap.Mappable) (*clock.Page, uint64, error) {
	image := New()
	r := memmap.Range{End: DataSize + uint64(len(image))}
	// The references are kept: the page is written for as long as the Sentry lives.
	ts, err := m.Translate(r, r, usermem.ReadWrite)
	if err != nil {
		return nil, 0, err
	}
	var page *clock.Page
	for _, t := range ts {
		for at := max(t.Source.Start, r.Start); at < min(t.Source.End, r.End); {
			b, err := t.File.Slice(t.Offset+at-t.Source.Start, min(t.Source.End, r.End)-at)
			if err != nil {
				return nil, 0, err
			}
			if at < DataSize {
				if uint64(len(b)) < DataSize-at || at != 0 {
					return nil, 0, errors.New("vdso: the data page is not in one piece")
				}
				page = clock.PageAt(b)
				b = b[DataSize:]
				at += DataSize
			}
			copy(b, image[at-DataSize:])
			at += uint64(len(b))
		}
	}
	if page == nil {
		return nil, 0, errors.New("vdso: the memory for it can't be reached")
	}
	return page, uint64(len(image)), nil
}

// Size returns how many bytes Install needs.
func Size() uint64 { return DataSize + uint64(len(New())) }
