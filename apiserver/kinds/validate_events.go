package kinds

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Most bytes of an event's texts.
const (
	shortText = 128
	noteText  = 1024
)

// validateEvent is what both Event APIs ask for. What has an eventTime was written by a client of the newer one.
//
// Upstream: pkg/apis/core/validation/events.go, legacyValidateEvent.
// Left out: in events.k8s.io reportingComponent is called reportingController.
func validateEvent(e *corev1.Event) field.ErrorList {
	var c checks
	about, at := e.InvolvedObject.Namespace, field.NewPath("involvedObject", "namespace")
	fits := about == "" && e.Namespace == metav1.NamespaceDefault // an event about a node
	if e.EventTime.IsZero() {
		fits = fits || about == e.Namespace
	} else {
		fits = fits || about != "" || e.Namespace == metav1.NamespaceSystem
	}
	if !fits {
		c.add(field.Invalid(at, about, "does not match event.namespace"))
	}
	if e.EventTime.IsZero() {
		return c.errs
	}
	component := field.NewPath("reportingComponent")
	c.required(e.ReportingController, component, "")
	c.texts(e.ReportingController, component, utilvalidation.IsQualifiedName(e.ReportingController))
	text := func(value, name string) {
		c.required(value, field.NewPath(name), "")
		c.shorter(value, name, shortText)
	}
	text(e.ReportingInstance, "reportingInstance")
	text(e.Action, "action")
	text(e.Reason, "reason")
	c.shorter(e.Message, "message", noteText)
	return c.errs
}

func (c *checks) shorter(value, name string, most int) {
	if len(value) > most {
		c.add(field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", most)))
	}
}

// validateNewEvent is what events.k8s.io asks for beyond that: none of the fields that only core's events
// have, and no change but of the series.
//
// Upstream: pkg/apis/core/validation/events.go, ValidateEventCreate and ValidateEventUpdate.
func validateNewEvent(obj, old runtime.Object) field.ErrorList {
	var c checks
	e := as[corev1.Event](obj)
	if old == nil {
		c.series(e.Series)
		if e.EventTime.IsZero() {
			c.add(field.Required(field.NewPath("eventTime"), ""))
		}
		if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
			c.add(field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
		}
		unset := func(is bool, name string) {
			if !is {
				c.add(field.Invalid(field.NewPath(name), "", "needs to be unset"))
			}
		}
		unset(e.FirstTimestamp.IsZero(), "firstTimestamp")
		unset(e.LastTimestamp.IsZero(), "lastTimestamp")
		unset(e.Count == 0, "count")
		unset(e.Source == corev1.EventSource{}, "source")
		return c.errs
	}
	o := as[corev1.Event](old)
	if !equal(e.Series, o.Series) {
		c.series(e.Series)
	}
	same := func(now, before any, name string) { c.same(now, before, field.NewPath(name)) }
	same(e.InvolvedObject, o.InvolvedObject, "involvedObject")
	same(e.Reason, o.Reason, "reason")
	same(e.Message, o.Message, "message")
	same(e.Source, o.Source, "source")
	same(e.FirstTimestamp, o.FirstTimestamp, "firstTimestamp")
	same(e.LastTimestamp, o.LastTimestamp, "lastTimestamp")
	same(e.Count, o.Count, "count")
	same(e.Reason, o.Reason, "reason") // upstream says it twice
	same(e.Type, o.Type, "type")
	if !e.EventTime.Truncate(time.Microsecond).Equal(o.EventTime.Truncate(time.Microsecond)) { // protobuf keeps nanoseconds, JSON does not
		same(e.EventTime, o.EventTime, "eventTime")
	}
	same(e.Action, o.Action, "action")
	same(e.Related, o.Related, "related")
	same(e.ReportingController, o.ReportingController, "reportingController")
	same(e.ReportingInstance, o.ReportingInstance, "reportingInstance")
	return c.errs
}

func (c *checks) series(s *corev1.EventSeries) {
	if s == nil {
		return
	}
	if s.Count < 2 {
		c.add(field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		c.add(field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
}
