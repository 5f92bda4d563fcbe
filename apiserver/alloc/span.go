package alloc

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
)

// Why a number is not given; the texts reach the user.
//
// Upstream: pkg/registry/core/service/ipallocator/interfaces.go and portallocator/allocator.go.
var (
	errFull  = errors.New("range is full")
	errTaken = errors.New("provided IP is already allocated")
	errRange = errors.New("the provided network does not match the current range")
)

// span is the numbers first to last, which can be handed out. reserved is how many of the lowest are kept for those who ask by number
// as long as others are free.
type span struct{ first, last, reserved uint32 }

// contains reports whether n can be handed out at all.
func (s span) contains(n uint32) bool { return s.first <= n && n <= s.last }

// next offers numbers, from a random one on, until take takes one.
func (s span) next(take func(n uint32) (bool, error)) (uint32, error) {
	middle := s.first + s.reserved
	for _, band := range [][2]uint32{{middle, s.last}, {s.first, middle - 1}} {
		lo, hi := band[0], band[1]
		if lo > hi || hi < s.first {
			continue
		}
		size := hi - lo + 1
		start := rand.Uint32N(size)
		for i := range size {
			n := lo + (start+i)%size
			if took, err := take(n); took || err != nil {
				return n, err
			}
		}
	}
	return 0, errFull
}

// addressSpan is a service range without its first address, the network's, and its last, the broadcast one.
//
// Upstream: pkg/registry/core/service/ipallocator/ipallocator.go, calculateRangeOffset.
func addressSpan(cidr netip.Prefix) span {
	first := number(cidr.Masked().Addr())
	size := uint32(1) << (32 - cidr.Bits())
	reserved := uint32(0)
	if size > 16 {
		reserved = min(max(size/16, 16), 256)
	}
	return span{first + 1, first + size - 2, max(reserved, 1) - 1}
}

// portSpan is the range of node ports.
//
// Upstream: pkg/registry/core/service/portallocator/allocator.go, calculateRangeOffset.
func portSpan(first, last uint32) span {
	size, reserved := last-first+1, uint32(0)
	if size >= 16 {
		reserved = min(max(size/32, 16), 128)
	}
	return span{first, last, reserved}
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
