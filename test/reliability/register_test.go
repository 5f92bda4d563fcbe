package reliability

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

type verb string

const (
	read   verb = "read"
	create verb = "create"
	swap   verb = "swap"   // PUT with a resourceVersion
	remove verb = "remove" // DELETE with a resourceVersion as its precondition
)

// call is what a client asks. Values are unique, so that a value names one write.
type call struct {
	verb   verb
	object string
	value  string // to be written
	// expects and revision are what swap and remove believe to be there.
	expects  string
	revision int64
}

// reply is what it is told.
type reply struct {
	fate     fate
	value    string
	revision int64 // 0: not told
}

type fate string

const (
	done     fate = "done"
	absent   fate = "absent"
	exists   fate = "exists"
	conflict fate = "conflict"
	unknown  fate = "unknown"
	nothing  fate = "nothing" // was not even sent; stands in no history
)

// register is the state of one object.
type register struct {
	value string // "" when there is none
	// revision of value; 0 when the write that made it got no answer and nobody has read it since.
	revision int64
	// floor is the greatest revision known: later ones are greater.
	floor int64
}

// model is a register with compare-and-swap, for each object by itself. A call
// without an answer takes effect where the search puts it; as it never
// returned, that may be after everything else, where nobody can tell.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			name := op.Input.(call).object
			by[name] = append(by[name], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(register).step(input.(call), output.(reply))
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// step says whether the reply is one that this state gives, and what the state is then.
func (s register) step(c call, r reply) (bool, register) {
	expected := s.value != "" && s.value == c.expects && (s.revision == 0 || s.revision == c.revision)
	switch {
	case r.fate == unknown:
		return true, s.after(c, expected)
	case r.fate == absent:
		return c.verb != create && s.value == "", s
	case r.fate == exists:
		return c.verb == create && s.value != "", s
	case r.fate == conflict:
		return s.value != "" && s.value != c.expects, s
	case c.verb == read:
		ok := s.value != "" && s.value == r.value && (s.revision == r.revision || s.revision == 0 && r.revision > s.floor)
		return ok, register{r.value, r.revision, r.revision}
	case c.verb == create:
		return s.value == "" && r.revision > s.floor, register{c.value, r.revision, r.revision}
	case c.verb == swap:
		return expected && r.revision > max(s.floor, c.revision), register{c.value, r.revision, r.revision}
	}
	return expected, register{floor: max(s.floor, c.revision)}
}

// after is the state when a call without an answer has happened.
func (s register) after(c call, expected bool) register {
	switch {
	case c.verb == create && s.value == "":
		return register{value: c.value, floor: s.floor}
	case c.verb == swap && expected:
		return register{value: c.value, floor: max(s.floor, c.revision)}
	case c.verb == remove && expected:
		return register{floor: max(s.floor, c.revision)}
	}
	return s
}

// searchWithin bounds the check of all histories.
const searchWithin = 2 * time.Minute

// explain fails the test with the histories that no order of events explains.
func explain(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	switch porcupine.CheckOperationsTimeout(model, history, searchWithin) {
	case porcupine.Ok:
		return
	case porcupine.Unknown:
		t.Errorf("no order of %d operations was found in %v", len(history), searchWithin)
		return
	}
	for _, ops := range model.Partition(history) {
		if !porcupine.CheckOperations(model, ops) {
			t.Errorf("nothing explains what clients saw of %s:\n%s", ops[0].Input.(call).object, describe(ops))
		}
	}
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		end := "never"
		if op.Return < math.MaxInt64 {
			end = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&b, "client %d, %v to %s: %s\n", op.ClientId, time.Duration(op.Call), end, model.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}

// outOfOrder finds an acknowledged write that began after another one ended and
// has no greater revision.
func outOfOrder(history []porcupine.Operation) string {
	var writes []porcupine.Operation
	for _, op := range history {
		if v := op.Input.(call).verb; op.Output.(reply).fate == done && (v == create || v == swap) {
			writes = append(writes, op)
		}
	}
	byEnd := slices.SortedFunc(slices.Values(writes), func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	slices.SortFunc(writes, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var newest porcupine.Operation
	ended := 0
	for _, op := range writes {
		for ; byEnd[ended].Return < op.Call; ended++ {
			if newest.Output == nil || byEnd[ended].Output.(reply).revision > newest.Output.(reply).revision {
				newest = byEnd[ended]
			}
		}
		if newest.Output != nil && op.Output.(reply).revision <= newest.Output.(reply).revision {
			return describe([]porcupine.Operation{newest, op})
		}
	}
	return ""
}

// A checker that lets everything pass would prove nothing.
func TestTheModelSeesWhatIsWrong(t *testing.T) {
	at := func(from, to int64, c call, r reply) porcupine.Operation {
		c.object = "a"
		return porcupine.Operation{Input: c, Call: from, Output: r, Return: to}
	}
	const never = math.MaxInt64
	made := at(1, 2, call{verb: create, value: "one"}, reply{fate: done, revision: 5})
	lostAnswer := at(3, never, call{verb: swap, value: "two", expects: "one", revision: 5}, reply{fate: unknown})
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		ok      bool
	}{
		{"a write is read back", []porcupine.Operation{made, at(3, 4, call{verb: read}, reply{done, "one", 5})}, true},
		{"an acknowledged write is lost", []porcupine.Operation{made, at(3, 4, call{verb: read}, reply{fate: absent})}, false},
		{"an object is read with another revision", []porcupine.Operation{made, at(3, 4, call{verb: read}, reply{done, "one", 6})}, false},
		{"a revision goes back", []porcupine.Operation{made, at(3, 4, call{verb: swap, value: "two", expects: "one", revision: 5}, reply{done, "", 4})}, false},
		{"two writers win against one revision", []porcupine.Operation{made,
			at(3, 6, call{verb: swap, value: "two", expects: "one", revision: 5}, reply{done, "", 6}),
			at(3, 6, call{verb: swap, value: "three", expects: "one", revision: 5}, reply{done, "", 7})}, false},
		{"a lost answer was a success", []porcupine.Operation{made, lostAnswer, at(5, 6, call{verb: read}, reply{done, "two", 7})}, true},
		{"a lost answer was a failure", []porcupine.Operation{made, lostAnswer, at(5, 6, call{verb: read}, reply{done, "one", 5})}, true},
		{"a lost answer is taken back", []porcupine.Operation{made, lostAnswer,
			at(5, 6, call{verb: read}, reply{done, "two", 7}), at(7, 8, call{verb: read}, reply{done, "one", 5})}, false},
		{"a removed object comes back", []porcupine.Operation{made,
			at(3, 4, call{verb: remove, expects: "one", revision: 5}, reply{fate: done}), at(5, 6, call{verb: read}, reply{done, "one", 5})}, false},
	} {
		if got := porcupine.CheckOperations(model, c.history); got != c.ok {
			t.Errorf("%s: explained = %v", c.name, got)
		}
	}
	later := at(3, 4, call{verb: create, value: "x"}, reply{done, "", 5})
	later.Input = call{verb: create, object: "b", value: "x"}
	if outOfOrder([]porcupine.Operation{made, later}) == "" {
		t.Error("two writes, one after the other, have one revision, and nobody complained")
	}
}
