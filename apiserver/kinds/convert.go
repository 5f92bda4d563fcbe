package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hubs names the kinds of which two versions are served and one is stored.
var hubs = map[schema.GroupVersionKind]struct {
	gvk      schema.GroupVersionKind
	to, from func(runtime.Object) (runtime.Object, error)
	validate func(obj, old runtime.Object) field.ErrorList
}{
	{Group: "events.k8s.io", Version: "v1", Kind: "Event"}: {
		gvk: schema.GroupVersionKind{Version: "v1", Kind: "Event"}, to: eventToCore, from: eventFromCore, validate: validateNewEvent,
	},
	{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"}: {
		gvk: schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}, to: hpaToV2, from: hpaToV1,
	},
}

// eventToCore and eventFromCore: the two Event APIs are two spellings of the
// same fields.
//
// Upstream: pkg/apis/events/v1/conversion.go.
func eventToCore(in runtime.Object) (runtime.Object, error) {
	e, ok := in.(*eventsv1.Event)
	if !ok {
		return nil, fmt.Errorf("cannot convert %T to a core/v1 Event", in)
	}
	out := &corev1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Action: e.Action, Reason: e.Reason, Message: e.Note,
		InvolvedObject: e.Regarding, Related: e.Related, Type: e.Type,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		Source: e.DeprecatedSource, FirstTimestamp: e.DeprecatedFirstTimestamp,
		LastTimestamp: e.DeprecatedLastTimestamp, Count: e.DeprecatedCount,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}

func eventFromCore(in runtime.Object) (runtime.Object, error) {
	e, ok := in.(*corev1.Event)
	if !ok {
		return nil, fmt.Errorf("cannot convert %T to an events.k8s.io/v1 Event", in)
	}
	out := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Action: e.Action, Reason: e.Reason, Note: e.Message,
		Regarding: e.InvolvedObject, Related: e.Related, Type: e.Type,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp: e.LastTimestamp, DeprecatedCount: e.Count,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}
