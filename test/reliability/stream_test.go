package reliability

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/watch"
)

// step is one write to an object, as its only writer knows it. revision is 0 for
// a deletion: its answer does not tell.
type step struct {
	kind     watch.EventType
	value    string
	revision int64
}

// entry is one thing that a watcher got: an event, or with listed, a list.
type entry struct {
	step
	key    string
	listed map[string]step
}

// inconsistency compares what a watcher got with what was written: in order, no
// gap, nothing twice, nothing made up. A list is a new beginning and must be
// the state of its revision; at the end everything must have arrived. It
// returns "" when all is well.
func inconsistency(log []entry, written map[string][]step) string {
	at := map[string]int{} // how many of a key's steps the watcher knows of
	last := int64(0)
	for i, e := range log {
		fault := func(format string, args ...any) string {
			return fmt.Sprintf("entry %d (%s %s %q at %d): %s\n%s", i, e.kind, e.key, e.value, e.revision, fmt.Sprintf(format, args...), around(log, i))
		}
		switch {
		case e.listed != nil && e.revision < last:
			return fault("a list of revision %d after events of %d", e.revision, last)
		case e.listed != nil:
			last = e.revision
			for key, steps := range written {
				n, ok := position(steps, at[key], e.listed[key], e.revision)
				if !ok {
					return fault("the list has %+v as %s; written was %+v", e.listed[key], key, steps[at[key]:min(len(steps), at[key]+5)])
				}
				at[key] = n
			}
			continue
		case e.kind == watch.Bookmark && e.revision < last:
			return fault("a bookmark older than an event")
		case e.kind == watch.Bookmark:
			last = e.revision
			continue
		case e.revision <= last:
			return fault("comes after revision %d", last)
		}
		last = e.revision
		steps := written[e.key]
		if at[e.key] >= len(steps) {
			return fault("was never written")
		}
		want := steps[at[e.key]]
		if want.revision == 0 {
			want.revision = e.revision
		}
		if e.step != want {
			return fault("should be %+v", want)
		}
		at[e.key]++
	}
	for key, steps := range written {
		if at[key] != len(steps) {
			return fmt.Sprintf("the last %d writes to %s never came: %+v ...", len(steps)-at[key], key, steps[at[key]])
		}
	}
	return ""
}

// position finds how many steps lead to what a list of a revision has of a key;
// not fewer than from.
func position(steps []step, from int, has step, revision int64) (int, bool) {
	n := from
	for n < len(steps) && steps[n].revision <= revision {
		// A deletion has no revision of its own: it is done if something later is, or if the list says so.
		if steps[n].revision == 0 && has.value != "" && !slices.ContainsFunc(steps[n:], func(s step) bool { return s.revision == has.revision }) {
			break
		}
		n++
	}
	if n == 0 || steps[n-1].kind == watch.Deleted {
		return n, has.value == ""
	}
	return n, has.value == steps[n-1].value && has.revision == steps[n-1].revision
}

func around(log []entry, i int) string {
	var b strings.Builder
	for j := max(0, i-5); j < min(len(log), i+3); j++ {
		fmt.Fprintf(&b, "  %d: %s %s %q at %d (list of %d)\n", j, log[j].kind, log[j].key, log[j].value, log[j].revision, len(log[j].listed))
	}
	return b.String()
}

func TestTheStreamCheckerSeesWhatIsWrong(t *testing.T) {
	written := map[string][]step{"a": {{watch.Added, "1", 3}, {watch.Modified, "2", 5}, {watch.Deleted, "2", 0}, {watch.Added, "3", 8}}}
	event := func(kind watch.EventType, value string, revision int64) entry {
		return entry{step: step{kind, value, revision}, key: "a"}
	}
	list := func(revision int64, has map[string]step) entry {
		return entry{step: step{revision: revision}, listed: has}
	}
	nothing := map[string]step{}
	added, modified, deleted, again := event(watch.Added, "1", 3), event(watch.Modified, "2", 5), event(watch.Deleted, "2", 6), event(watch.Added, "3", 8)
	for _, c := range []struct {
		name string
		log  []entry
		ok   bool
	}{
		{"all of it", []entry{list(1, nothing), added, modified, deleted, again}, true},
		{"from the middle", []entry{list(5, map[string]step{"a": {value: "2", revision: 5}}), deleted, again}, true},
		{"after the deletion", []entry{list(7, nothing), again}, true},
		{"a second list jumps over events", []entry{list(1, nothing), added, list(8, map[string]step{"a": {value: "3", revision: 8}})}, true},
		{"a gap", []entry{list(1, nothing), added, deleted, again}, false},
		{"a gap at the end", []entry{list(1, nothing), added, modified, deleted}, false},
		{"twice", []entry{list(1, nothing), added, added, modified, deleted, again}, false},
		{"out of order", []entry{list(1, nothing), modified, added, deleted, again}, false},
		{"a list without what was there", []entry{list(4, nothing), modified, deleted, again}, false},
		{"a list of an old state", []entry{list(8, map[string]step{"a": {value: "2", revision: 5}}), deleted, again}, false},
		{"a bookmark of what has not come", []entry{list(1, nothing), event(watch.Bookmark, "", 5), added, modified, deleted, again}, false},
		{"made up", []entry{list(1, nothing), added, modified, deleted, again, event(watch.Modified, "9", 9)}, false},
	} {
		if fault := inconsistency(c.log, written); (fault == "") != c.ok {
			t.Errorf("%s: %q", c.name, fault)
		}
	}
}
