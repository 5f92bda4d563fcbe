package scheduler

// Snapshot is all known nodes as they are during a scheduling cycle. It belongs to
// the goroutine of the cycles; Cache.Update moves it on between them.
//
// Upstream: pkg/scheduler/backend/cache/snapshot.go, Snapshot.
type Snapshot struct {
	Nodes []*NodeInfo
	// index is where in Nodes a name is.
	index map[string]int
	// withAffinity counts pods with inter-pod affinity of any kind, withAnti those
	// with required anti-affinity, images the nodes that have an image.
	withAffinity, withAnti int
	images                 map[string]int
	// journal names the places in Nodes that changed, in order. What happened before
	// its first entry, which has the number start, is forgotten.
	journal []int
	start   int
	// tallies are by what they ask.
	tallies map[string]*tally
}

func newSnapshot() *Snapshot {
	return &Snapshot{index: map[string]int{}, images: map[string]int{}, tallies: map[string]*tally{}}
}

// set adds, changes or (with nil) removes a node.
func (s *Snapshot) set(name string, n *NodeInfo) {
	i, known := s.index[name]
	switch {
	case known && n != nil:
		s.put(i, n)
	case known: // the last one takes its place
		last := len(s.Nodes) - 1
		moved := s.Nodes[last]
		s.put(last, nil)
		if i != last {
			s.put(i, moved)
			s.index[moved.Name()] = i
		}
		s.Nodes = s.Nodes[:last]
		delete(s.index, name)
	case n != nil:
		i = len(s.Nodes)
		s.Nodes = append(s.Nodes, nil)
		s.index[name] = i
		s.put(i, n)
	}
}

// put changes one place.
func (s *Snapshot) put(i int, n *NodeInfo) {
	old := s.Nodes[i]
	s.Nodes[i] = n
	s.count(old, n, -1)
	s.count(n, old, 1)
	if s.journal = append(s.journal, i); len(s.journal) > 2*len(s.Nodes)+100 {
		s.start += len(s.journal)
		s.journal = s.journal[:0]
	}
}

// count adds a node to the sums (sign 1) or takes it off (-1); other is what was, or
// will be, in its place.
func (s *Snapshot) count(n, other *NodeInfo, sign int) {
	if n == nil {
		return
	}
	s.withAffinity += sign * n.withAffinity
	s.withAnti += sign * n.withAnti
	if other != nil && other.Node == n.Node {
		return // the same images
	}
	for name := range n.images {
		if s.images[name] += sign; s.images[name] == 0 {
			delete(s.images, name)
		}
	}
}

// places are where the named nodes are; names of others are passed over.
func (s *Snapshot) places(names []string) []int {
	out := []int{}
	for _, name := range names {
		if i, ok := s.index[name]; ok {
			out = append(out, i)
		}
	}
	return out
}

// at is the node at a place, nil behind the last.
func (s *Snapshot) at(i int) *NodeInfo {
	if i < len(s.Nodes) {
		return s.Nodes[i]
	}
	return nil
}
