package controllers

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// schedule is a cron expression: for each of minute, hour, day of month, month
// and day of week the set of values that match, as bits.
//
// Upstream: github.com/robfig/cron/v3, ParseStandard.
type schedule struct {
	minute, hour, day, month, weekday uint64
	anyDay, anyWeekday                bool // "*": the other one decides alone
	every                             time.Duration
	zone                              *time.Location
}

var shorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

var (
	monthNames   = []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	weekdayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
)

// parseSchedule reads "minute hour day month weekday", "@daily" and its kin, or
// "@every 5m"; zone is an IANA name, nil for the machine's.
func parseSchedule(spec string, zone *string) (*schedule, error) {
	s := &schedule{zone: time.Local}
	if zone != nil {
		loc, err := time.LoadLocation(*zone)
		if err != nil {
			return nil, fmt.Errorf("unknown time zone %s", *zone)
		}
		s.zone = loc
	}
	if rest, ok := strings.CutPrefix(spec, "@every "); ok {
		d, err := time.ParseDuration(rest)
		s.every = max(d.Truncate(time.Second), time.Second)
		return s, err
	}
	if long, ok := shorthands[spec]; ok {
		spec = long
	}
	fields := strings.Fields(spec)
	if len(fields) != 5 {
		return nil, fmt.Errorf("expected exactly 5 fields, found %d: %s", len(fields), fields)
	}
	for i, f := range []struct {
		bits        *uint64
		first, last int
		names       []string
	}{
		{&s.minute, 0, 59, nil}, {&s.hour, 0, 23, nil}, {&s.day, 1, 31, nil}, {&s.month, 1, 12, monthNames}, {&s.weekday, 0, 6, weekdayNames},
	} {
		for _, part := range strings.Split(fields[i], ",") {
			bits, err := parseCronPart(part, f.first, f.last, f.names)
			if err != nil {
				return nil, err
			}
			*f.bits |= bits
		}
	}
	s.anyDay, s.anyWeekday = isStar(fields[2]), isStar(fields[4])
	return s, nil
}

func isStar(field string) bool { return strings.HasPrefix(field, "*") || strings.HasPrefix(field, "?") }

// parseCronPart reads one of "*", "5", "1-5", "*/15", "10-30/5", "mon-fri".
func parseCronPart(part string, first, last int, names []string) (bits uint64, err error) {
	span, step, stepped := strings.Cut(part, "/")
	n := 1
	if stepped {
		if n, err = strconv.Atoi(step); err != nil || n <= 0 {
			return 0, fmt.Errorf("step of range should be a positive number: %s", part)
		}
	}
	number := func(s string) (int, error) {
		for i, name := range names {
			if name != "" && strings.EqualFold(s, name) {
				return i, nil
			}
		}
		v, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("failed to parse int from %s", s)
		}
		return v, nil
	}
	low, high := first, last
	if span != "*" && span != "?" {
		from, to, isRange := strings.Cut(span, "-")
		if low, err = number(from); err != nil {
			return 0, err
		}
		switch {
		case isRange:
			if high, err = number(to); err != nil {
				return 0, err
			}
		case !stepped:
			high = low
		}
	}
	if low < first || high > last || low > high {
		return 0, fmt.Errorf("%s is not within %d to %d", part, first, last)
	}
	for v := low; v <= high; v += n {
		bits |= 1 << v
	}
	return bits, nil
}

func has(bits uint64, v int) bool { return bits&(1<<v) != 0 }

// next is the first time after t that matches; zero if there is none in five
// years. Hours and days are walked by the calendar, so that a change of the
// clocks neither skips nor doubles more than it must.
func (s *schedule) next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every - time.Duration(t.Nanosecond())).Truncate(time.Second)
	}
	origin := t.Location()
	t = t.In(s.zone).Truncate(time.Minute).Add(time.Minute)
	for limit := t.AddDate(5, 0, 0); t.Before(limit); {
		switch {
		case !has(s.month, int(t.Month())):
			t = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, s.zone)
		case !s.dayMatches(t):
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, s.zone)
		case !has(s.hour, t.Hour()):
			t = t.Truncate(time.Minute).Add(time.Duration(60-t.Minute()) * time.Minute)
		case !has(s.minute, t.Minute()):
			t = t.Add(time.Minute)
		default:
			return t.In(origin)
		}
	}
	return time.Time{}
}

func (s *schedule) dayMatches(t time.Time) bool {
	day, weekday := has(s.day, t.Day()), has(s.weekday, int(t.Weekday()))
	if s.anyDay || s.anyWeekday {
		return day && weekday
	}
	return day || weekday // cron's odd rule: two restrictions widen each other
}
