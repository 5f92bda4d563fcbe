package scheduler

// tally is a question about the pods on all nodes, summed up by topology: how many
// pods of this kind are in each zone? Its answer is kept from one pod to the next
// that asks the same, and only nodes that have changed since are asked again. That
// makes it cheap, too, to suppose for a moment that a node were another than it is.
//
// Upstream counts anew in each PreFilter and PreScore, on several CPUs.
type tally struct {
	ask    func(*NodeInfo) shares
	shares []shares // of each node, by place in Snapshot.Nodes
	sums   []sum
	read   int // how far in the journal
}

// share is what a node adds to one of a tally's sums: n more in the domain that it
// is in by the topology key.
type share struct {
	sum         int
	key, domain string
	n           int
}

type shares []share

func (s *shares) add(sum int, key, domain string, n int) {
	for i := range *s {
		if sh := &(*s)[i]; sh.sum == sum && sh.key == key && sh.domain == domain {
			sh.n += n
			return
		}
	}
	*s = append(*s, share{sum, key, domain, n})
}

// sum has counts by topology key and domain.
type sum struct {
	domains map[string]map[string]domain
	// having says how many domains have each count.
	having map[int]int
}

// domain is there as long as a node has a share in it, be it of 0.
type domain struct{ nodes, n int }

// maxTallies bounds what a snapshot remembers. A kind of pod asks up to four.
const maxTallies = 64

// tally is the up to date answer to a question with so many sums. The key says all
// that ask depends on but the node.
func (s *Snapshot) tally(key string, sums int, ask func(*NodeInfo) shares) *tally {
	t := s.tallies[key]
	if t == nil {
		for other := range s.tallies {
			if len(s.tallies) < maxTallies {
				break
			}
			delete(s.tallies, other)
		}
		t = &tally{ask: ask, sums: make([]sum, sums), read: -1}
		for i := range t.sums {
			t.sums[i] = sum{map[string]map[string]domain{}, map[int]int{}}
		}
		s.tallies[key] = t
	}
	if t.read < s.start { // it was not asked for too long
		for i := range max(len(s.Nodes), len(t.shares)) {
			t.suppose(i, s.at(i))
		}
	} else {
		for _, i := range s.journal[t.read-s.start:] {
			t.suppose(i, s.at(i))
		}
	}
	t.read = s.start + len(s.journal)
	return t
}

// suppose counts a node, or none for nil, in the place of the one that was counted there.
func (t *tally) suppose(i int, n *NodeInfo) {
	var now shares
	if n != nil {
		now = t.ask(n)
	}
	if i >= len(t.shares) && len(now) == 0 {
		return
	}
	for len(t.shares) <= i {
		t.shares = append(t.shares, nil)
	}
	t.add(t.shares[i], -1)
	t.add(now, 1)
	t.shares[i] = now
}

func (t *tally) add(of shares, sign int) {
	for _, sh := range of {
		s := &t.sums[sh.sum]
		domains := s.domains[sh.key]
		if domains == nil {
			domains = map[string]domain{}
			s.domains[sh.key] = domains
		}
		d, had := domains[sh.domain]
		if had {
			s.have(d.n, -1)
		}
		d.nodes += sign
		d.n += sign * sh.n
		if d.nodes > 0 {
			domains[sh.domain] = d
			s.have(d.n, 1)
			continue
		}
		if delete(domains, sh.domain); len(domains) == 0 {
			delete(s.domains, sh.key)
		}
	}
}

func (s *sum) have(n, sign int) {
	if s.having[n] += sign; s.having[n] == 0 {
		delete(s.having, n)
	}
}

// at adds up the counts of all domains that a node with these labels is in.
func (s *sum) at(labels map[string]string) (n int) {
	for key, domains := range s.domains {
		if v, ok := labels[key]; ok {
			n += domains[v].n
		}
	}
	return n
}

// fewest is the least count of a domain, 0 if there are none.
func (s *sum) fewest() (least int) {
	first := true
	for n := range s.having {
		if first || n < least {
			least, first = n, false
		}
	}
	return least
}
