package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"orrery/test/peers"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// exchange is a request of testdata with its answer, as the file has it.
type exchange struct {
	line                            int
	title, user                     string
	header                          http.Header
	method, path, contentType, body string
	code                            int
	answer                          []string
	// until: what was done before takes its time to show; it is asked again until the answer is the one of the file.
	until bool
}

var record = flag.String("record", "", "file of testdata: write into it what upstream's server answers now")

func TestRefusalsAreThoseOfTheRecordedCluster(t *testing.T) { replay(t, "refusals.txt", 80) }

func TestAnswersAreThoseOfTheRecordedCluster(t *testing.T) { replay(t, "answers.txt", 50) }

// The answers of these files are what upstream's server of v1.36.3 gave to -record.
func TestManifestsAreRefusedAsUpstreamRefusesThem(t *testing.T) {
	files, err := filepath.Glob("testdata/validation_*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no files of testdata", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { replay(t, filepath.Base(file), 5) })
	}
}

// replay asks both servers what a file of at least n exchanges has, in its order.
func replay(t *testing.T, file string, n int) {
	exchanges := read(t, file)
	if file == *record {
		rewrite(t, file, exchanges)
	}
	if len(exchanges) < n {
		t.Fatalf("only %d exchanges were read: the file has lost its form", len(exchanges))
	}
	for _, side := range []peers.Side{peers.Ours, peers.Upstream} {
		t.Run(string(side), func(t *testing.T) {
			if side == peers.Upstream {
				peers.Need(t)
			}
			c := peers.New(t)
			c.StartAPIServer(side)
			for _, e := range exchanges {
				e.run(t, c)
			}
		})
	}
}

// rewrite puts upstream's answers in the place of those that the file has. What is
// random in them is for the editor to replace.
func rewrite(t *testing.T, file string, exchanges []*exchange) {
	peers.Need(t)
	c := peers.New(t)
	c.StartAPIServer(peers.Upstream)
	path := filepath.Join("testdata", file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	var out []string
	next := 0
	for _, e := range exchanges {
		at := e.line
		for !strings.HasPrefix(lines[at], "=> ") {
			at++
		}
		out = append(out, lines[next:at]...)
		next = at + len(e.answer)
		code, body, header := e.ask(t, c)
		for end := time.Now().Add(10 * time.Second); e.until && code != e.code && time.Now().Before(end); code, body, header = e.ask(t, c) {
			time.Sleep(20 * time.Millisecond)
		}
		answer := describe(code, body)
		switch {
		case code < 300:
			answer = append([]string{fmt.Sprint("=> ", code)}, e.granted(t, header, body)...)
		case strings.Count(strings.Join(answer, "\n"), "\ncause ") > 1:
			answer[0] = "=> 422 Invalid {...}" // the message repeats the causes
		}
		out = append(out, answer...)
	}
	out = append(out, lines[next:]...)
	if err := os.WriteFile(path, []byte(strings.Join(out, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ask sends the request and returns the answer.
func (e *exchange) ask(t *testing.T, c *peers.Cluster) (code int, body []byte, header http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	repeat := regexp.MustCompile(`<(.)\*(\d+)>`)
	sent := repeat.ReplaceAllStringFunc(e.body, func(s string) string {
		m := repeat.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	})
	req, err := http.NewRequestWithContext(ctx, e.method, c.URL()+e.path, strings.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = e.header.Clone()
	req.Header.Set("User-Agent", "curl/8.5.0") // who asked the recorded cluster; it becomes the manager of fields
	if sent != "" {
		req.Header.Set("Content-Type", e.contentType)
	}
	resp, err := clientOf(t, c, e.user).Do(req)
	if err != nil {
		t.Fatalf("line %d, %s: %v", e.line, e.title, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("line %d, %s: %v", e.line, e.title, err)
	}
	return resp.StatusCode, body, resp.Header
}

func (e *exchange) run(t *testing.T, c *peers.Cluster) {
	t.Helper()
	answer := func() []string {
		code, data, header := e.ask(t, c)
		if e.answer[0] == fmt.Sprint("=> ", e.code) { // what is granted, and what need not be looked at
			return append([]string{fmt.Sprint("=> ", code)}, e.granted(t, header, data)...)
		}
		return describe(code, data)
	}
	got, right := answer(), func(got []string) bool { return slices.EqualFunc(got, e.answer, matches) }
	for end := time.Now().Add(10 * time.Second); e.until && !right(got) && time.Now().Before(end); got = answer() {
		time.Sleep(20 * time.Millisecond)
	}
	if !right(got) {
		t.Errorf("line %d, %s: %s %s\ngot:\n\t%s\nwant:\n\t%s", e.line, e.title, e.method, e.path,
			strings.Join(got, "\n\t"), strings.Join(e.answer, "\n\t"))
	}
}

// granted writes what the file has of an answer: headers, then the body if it has that.
func (e *exchange) granted(t *testing.T, header http.Header, data []byte) []string {
	t.Helper()
	var got []string
	last := e.answer[len(e.answer)-1]
	for _, line := range e.answer[1:] {
		if rest, ok := strings.CutPrefix(line, "header "); ok {
			name, _, _ := strings.Cut(rest, ": ")
			got = append(got, "header "+name+": "+strings.Join(header.Values(name), ", "))
		}
	}
	switch {
	case len(got) == len(e.answer)-1:
	case !strings.HasPrefix(last, "{"):
		return append(got, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	default:
		for d := json.NewDecoder(bytes.NewReader(data)); d.More(); {
			var one json.RawMessage
			var short bytes.Buffer
			if err := errors.Join(d.Decode(&one), json.Compact(&short, one)); err != nil {
				t.Errorf("line %d, %s: %v", e.line, e.title, err)
				return got
			}
			got = append(got, short.String())
		}
	}
	return got
}

// describe writes an answer as the file does.
func describe(code int, data []byte) []string {
	var status metav1.Status
	if json.Unmarshal(data, &status) != nil || status.Kind != "Status" {
		first, _, _ := strings.Cut(string(bytes.TrimSpace(data)), "\n")
		return []string{strings.TrimSpace(fmt.Sprintf("=> %d text %s", code, first))}
	}
	line := func(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	answer := []string{fmt.Sprintf("=> %d %s %s", status.Code, dash(string(status.Reason)), line(status.Message))}
	if int(status.Code) != code {
		answer = append(answer, fmt.Sprintf("but the HTTP status is %d", code))
	}
	d := status.Details
	if d == nil {
		return answer
	}
	var pairs []string
	for _, p := range []struct{ key, value string }{{"name", d.Name}, {"group", d.Group}, {"kind", d.Kind}} {
		if p.value != "" {
			pairs = append(pairs, p.key+"="+p.value)
		}
	}
	if d.RetryAfterSeconds != 0 {
		pairs = append(pairs, fmt.Sprint("retryAfterSeconds=", d.RetryAfterSeconds))
	}
	if len(pairs) > 0 {
		answer = append(answer, "details "+strings.Join(pairs, " "))
	}
	for _, c := range d.Causes {
		answer = append(answer, fmt.Sprintf("cause %s %s %s", dash(string(c.Type)), dash(c.Field), line(c.Message)))
	}
	return answer
}

// matches compares a line with one of the file, which has placeholders.
func matches(got, want string) bool {
	pattern := regexp.QuoteMeta(want)
	for placeholder, means := range map[string]string{"uid": `[0-9a-f-]{36}`, "rv": `[1-9][0-9]*`, "time": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`,
		"ip": `10\.\d+\.\d+\.\d+`, "token": `[\w.-]+`, "rand": `[a-z0-9]{5}`, `\.\.\.`: `.*`} {
		pattern = strings.ReplaceAll(pattern, `\{`+placeholder+`\}`, means)
	}
	return regexp.MustCompile("^" + pattern + "$").MatchString(got)
}

// clientOf has the certificate of "user/group,group", or none for "nobody".
func clientOf(t *testing.T, c *peers.Cluster, user string) *http.Client {
	t.Helper()
	name, groups, _ := strings.Cut(user, "/")
	cfg := c.Config(name, strings.Split(groups, ",")...)
	if user == "nobody" {
		cfg = rest.AnonymousClientConfig(cfg)
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: transport}
}

func read(t *testing.T, file string) []*exchange {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []*exchange
	var e *exchange
	for i, line := range strings.Split(string(data), "\n") {
		if e == nil {
			e = &exchange{user: "admin/system:masters", header: http.Header{}, contentType: "application/json"}
		}
		switch word, rest, _ := strings.Cut(line, " "); {
		case line == "" && e.code == 0:
			*e = exchange{user: e.user, header: e.header, contentType: e.contentType}
		case line == "":
			all, e = append(all, e), nil
		case e.code != 0: // after "=>" the answer goes on
			e.answer = append(e.answer, line)
		case word == "=>":
			first, _, _ := strings.Cut(rest, " ")
			if e.code, err = strconv.Atoi(first); err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			e.answer = []string{line}
		case e.method != "":
			e.body += line
		case strings.HasPrefix(line, "#"):
			e.title = rest
		case line == "until":
			e.until = true
		case word == "as":
			e.user = rest
		case word == "with":
			name, value, _ := strings.Cut(rest, ": ")
			e.header.Set(name, value)
		default:
			parts := append(strings.Fields(line), "")
			e.line, e.method, e.path = i+1, parts[0], parts[1]
			if parts[2] != "" {
				e.contentType = parts[2]
			}
		}
	}
	if e != nil {
		all = append(all, e)
	}
	return all
}
