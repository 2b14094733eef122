package vdso

import (
	"errors"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// Data is where Install has put the clocks.
type Data struct {
	Page   *clock.Page // for clock.Keeper.Share
	File   memmap.File
	Offset uint64
}

// Install writes a new image into m, behind DataSize bytes for the clocks, and returns
// these and the image's size. m is an object of
// the memory file that is at least Size bytes long; its first pages stay in
// memory from then on.
func Install(m memmap.Mappable) (Data, uint64, error) {
	image := New()
	r := memmap.Range{End: DataSize + uint64(len(image))}
	// The references are kept: the page is written for as long as the Sentry lives.
	ts, err := m.Translate(r, r, usermem.ReadWrite)
	if err != nil {
		return Data{}, 0, err
	}
	var data Data
	for _, t := range ts {
		for at := max(t.Source.Start, r.Start); at < min(t.Source.End, r.End); {
			b, err := t.File.Slice(t.Offset+at-t.Source.Start, min(t.Source.End, r.End)-at)
			if err != nil {
				return Data{}, 0, err
			}
			if at < DataSize {
				if uint64(len(b)) < DataSize-at || at != 0 {
					return Data{}, 0, errors.New("vdso: the data page is not in one piece")
				}
				data = Data{clock.PageAt(b), t.File, t.Offset}
				b = b[DataSize:]
				at += DataSize
			}
			copy(b, image[at-DataSize:])
			at += uint64(len(b))
		}
	}
	if data.Page == nil {
		return Data{}, 0, errors.New("vdso: the memory for it can't be reached")
	}
	return data, uint64(len(image)), nil
}

// Size returns how many bytes Install needs.
func Size() uint64 { return DataSize + uint64(len(New())) }
