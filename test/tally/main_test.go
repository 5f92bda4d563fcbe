package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestReportCountsAndGivesReasons(t *testing.T) {
	in := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: needs a kernel\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:9: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"q","Elapsed":1.25}
not json
`
	var out bytes.Buffer
	var r report
	r.count(strings.NewReader(in), &out)
	r.print(&out)
	want := `FAIL  p TestC
    c_test.go:9: got 1, want 2
ok    q 1.2s
not json

1 passed, 1 failed, 1 skipped
  skipped p TestB: needs a kernel
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestRunsAreSeparatedByDashes(t *testing.T) {
	var got []string
	for args := range runs([]string{"--", "-v", "./a", "--", "-p", "1", "./b"}) {
		got = append(got, strings.Join(args, " "))
	}
	if want := []string{"-v ./a", "-p 1 ./b"}; !slices.Equal(got, want) {
		t.Errorf("runs are %q, not %q", got, want)
	}
}
