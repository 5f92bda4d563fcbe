package alloc

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
)

// What a pool answers; the texts reach the user.
//
// Upstream: pkg/registry/core/service/ipallocator/interfaces.go and portallocator/allocator.go.
var (
	errFull  = errors.New("range is full")
	errTaken = errors.New("provided IP is already allocated")
	errRange = errors.New("the provided network does not match the current range")
)

// pool hands out the numbers first to last. reserved is how many of the lowest are kept for those who ask by number as long as others
// are free.
type pool struct {
	first, last, reserved uint32
	taken                 map[uint32]bool
}

func newPool(first, last, reserved uint32) *pool {
	return &pool{first: first, last: last, reserved: reserved, taken: map[uint32]bool{}}
}

// contains reports whether n can be handed out at all.
func (p *pool) contains(n uint32) bool { return p.first <= n && n <= p.last }

// take gives the very number n.
func (p *pool) take(n uint32) error {
	switch {
	case !p.contains(n):
		return errRange
	case p.taken[n]:
		return errTaken
	}
	p.taken[n] = true
	return nil
}

// next gives some free number, at random.
func (p *pool) next() (uint32, error) {
	middle := p.first + p.reserved
	for _, band := range [][2]uint32{{middle, p.last}, {p.first, middle - 1}} {
		lo, hi := band[0], band[1]
		if lo > hi || hi < p.first {
			continue
		}
		size := hi - lo + 1
		start := rand.Uint32N(size)
		for i := range size {
			if n := lo + (start+i)%size; !p.taken[n] {
				p.taken[n] = true
				return n, nil
			}
		}
	}
	return 0, errFull
}

// release gives n back.
func (p *pool) release(n uint32) { delete(p.taken, n) }

// addresses makes the pool of a service range: all but its first address, the network's, and its last, the broadcast one.
//
// Upstream: pkg/registry/core/service/ipallocator/ipallocator.go, calculateRangeOffset.
func addresses(cidr netip.Prefix) *pool {
	first := number(cidr.Masked().Addr())
	size := uint32(1) << (32 - cidr.Bits())
	reserved := uint32(0)
	if size > 16 {
		reserved = min(max(size/16, 16), 256)
	}
	return newPool(first+1, first+size-2, max(reserved, 1)-1)
}

// ports makes the pool of node ports.
//
// Upstream: pkg/registry/core/service/portallocator/allocator.go, calculateRangeOffset.
func ports(first, last uint32) *pool {
	size, reserved := last-first+1, uint32(0)
	if size >= 16 {
		reserved = min(max(size/32, 16), 128)
	}
	return newPool(first, last, reserved)
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
