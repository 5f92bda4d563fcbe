package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Each pod of an indexed Job has one of the numbers from 0 to completions-1, and the
// Job is done when one pod of each has succeeded. With backoffLimitPerIndex each index
// fails by itself: its pods carry in an annotation how many have failed before them.
//
// Upstream: pkg/controller/job/indexed_job_utils.go, success_policy.go.

func (v *jobView) indexed() bool {
	return v.job.Spec.CompletionMode != nil && *v.job.Spec.CompletionMode == batchv1.IndexedCompletion
}

// perIndex says whether failures are counted for each index.
func (v *jobView) perIndex() bool { return v.indexed() && v.job.Spec.BackoffLimitPerIndex != nil }

func (v *jobView) completions() int { return int(*v.job.Spec.Completions) }

// astray says whether a pod of an indexed Job has no index of its.
func (v *jobView) astray(p *corev1.Pod) bool {
	i := podIndex(p)
	return v.indexed() && (i < 0 || i >= v.completions())
}

// podIndex is the completion index of a pod, -1 if it has none.
func podIndex(p *corev1.Pod) int { return annotatedCount(p, batchv1.JobCompletionIndexAnnotation, -1) }

// annotatedCount is the number that an annotation has, or what to take instead.
func annotatedCount(p *corev1.Pod, name string, instead int) int {
	if i, err := strconv.ParseInt(p.Annotations[name], 10, 32); err == nil && i >= 0 {
		return int(i)
	}
	return instead
}

// failuresBefore is how many pods of its index failed before a pod; ignored are those
// that a policy did not count.
func failuresBefore(p *corev1.Pod) (counted, ignored int) {
	return annotatedCount(p, batchv1.JobIndexFailureCountAnnotation, 0), annotatedCount(p, batchv1.JobIndexIgnoredFailureCountAnnotation, 0)
}

// givesUp says whether with a failed pod its index has failed.
func (v *jobView) givesUp(p *corev1.Pod) bool {
	action, _ := failureAction(v.job.Spec.PodFailurePolicy, p)
	before, _ := failuresBefore(p)
	return action == batchv1.PodFailurePolicyActionFailIndex ||
		action != batchv1.PodFailurePolicyActionIgnore && before >= int(*v.job.Spec.BackoffLimitPerIndex)
}

// delayDeletion finds, for each index that is to have another pod, the last one that failed.
// That one stays until the other is there: its annotations are where the count is kept.
func (v *jobView) delayDeletion() {
	if !v.perIndex() {
		return
	}
	v.delayed = map[int]*corev1.Pod{}
	busy := map[int]bool{}
	for _, p := range v.running() {
		busy[podIndex(p)] = true
	}
	absolute := func(p *corev1.Pod) int { counted, ignored := failuresBefore(p); return counted + ignored }
	for _, p := range v.pods {
		i := podIndex(p)
		if !v.podFailed(p) || !hasFinalizer(p, batchv1.JobTrackingFinalizer) || v.astray(p) || v.succeededIndexes[i] || v.failedIndexes[i] || busy[i] {
			continue
		}
		if last := v.delayed[i]; last == nil || absolute(last) <= absolute(p) && !finishedAt(p).Before(finishedAt(last)) {
			v.delayed[i] = p
		}
	}
}

// failureCounts are the annotations of the next pod of an index.
func (v *jobView) failureCounts(index int) map[string]string {
	if !v.perIndex() {
		return nil
	}
	counted, ignored := 0, 0
	if last := v.delayed[index]; last != nil {
		counted, ignored = failuresBefore(last)
		if v.countsAsFailed(last) {
			counted++
		} else {
			ignored++
		}
	}
	counts := map[string]string{batchv1.JobIndexFailureCountAnnotation: strconv.Itoa(counted)}
	if ignored > 0 {
		counts[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
	}
	return counts
}

// judgeIndexes ends the job when too many indexes have failed, when each has come to
// an end and not all to a good one, or when a rule of the success policy is met.
func (v *jobView) judgeIndexes() {
	s := &v.job.Spec
	if v.perIndex() {
		if s.MaxFailedIndexes != nil && len(v.failedIndexes) > int(*s.MaxFailedIndexes) {
			v.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		}
		if len(v.failedIndexes) > 0 && len(v.failedIndexes)+len(v.succeededIndexes) >= v.completions() {
			v.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
	}
	if s.SuccessPolicy == nil || len(v.succeededIndexes) == 0 {
		return
	}
	for i, rule := range s.SuccessPolicy.Rules {
		if v.meets(&rule) {
			v.success = &batchv1.JobCondition{Reason: batchv1.JobReasonSuccessPolicy, Message: fmt.Sprintf("Matched rules at index %d", i)}
			return
		}
	}
}

// meets says whether enough of the indexes that a rule names have succeeded; it may
// name none and mean any.
func (v *jobView) meets(rule *batchv1.SuccessPolicyRule) bool {
	if rule.SucceededIndexes == nil {
		return rule.SucceededCount != nil && len(v.succeededIndexes) >= int(*rule.SucceededCount)
	}
	named := parseIndexes(*rule.SucceededIndexes, v.completions())
	if len(named) == 0 {
		return false
	}
	n := 0
	for i := range named {
		if v.succeededIndexes[i] {
			n++
		}
	}
	return n == len(named) || rule.SucceededCount != nil && n >= int(*rule.SucceededCount)
}

// misplaced are the running pods that an indexed Job can do without, whatever their
// number: of no index, and of one that another pod has got further with.
func (v *jobView) misplaced() (surplus, rest []*corev1.Pod) {
	if !v.indexed() {
		return nil, v.running()
	}
	byIndex := map[int][]*corev1.Pod{}
	for _, p := range v.running() {
		if v.astray(p) {
			surplus = append(surplus, p)
		} else {
			byIndex[podIndex(p)] = append(byIndex[podIndex(p)], p)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(byIndex)) {
		twins := byIndex[i]
		slices.SortStableFunc(twins, func(a, b *corev1.Pod) int { return victimOrder(a, b, nil, v.now) })
		surplus, rest = append(surplus, twins[:len(twins)-1]...), append(rest, twins[len(twins)-1])
	}
	return surplus, rest
}

// freeIndexes are the lowest n indexes that have not come to an end and that nobody
// works on.
func (v *jobView) freeIndexes(n int) (out []int) {
	busy := map[int]bool{}
	for _, p := range v.pods {
		if podActive(p) || v.onlyFailed() && !podFinished(p) {
			busy[podIndex(p)] = true
		}
	}
	for i := 0; i < v.completions() && len(out) < n; i++ {
		if !v.succeededIndexes[i] && !v.failedIndexes[i] && !busy[i] {
			out = append(out, i)
		}
	}
	return out
}

// dueIndexes are those of the lowest n free indexes whose wait after a failure is over;
// if there are none it reminds of the next.
func (v *jobView) dueIndexes(n int) (due []int) {
	next := time.Duration(0)
	for _, i := range v.freeIndexes(n) {
		wait := time.Duration(0)
		if last := v.delayed[i]; last != nil {
			counted, ignored := failuresBefore(last)
			wait = v.waitAfter(counted+ignored+1, finishedAt(last))
		}
		if wait == 0 {
			due = append(due, i)
		} else if next == 0 || wait < next {
			next = wait
		}
	}
	if len(due) == 0 && next > 0 {
		v.remind(max(next, v.batch))
	}
	return due
}

// parseIndexes reads "0-2,5", up to an end.
func parseIndexes(s string, end int) map[int]bool {
	out := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := a; i <= min(b, end-1); i++ {
			out[i] = true
		}
	}
	return out
}

// formatIndexes writes "0-2,5".
func formatIndexes(set map[int]bool) string {
	all := slices.Sorted(maps.Keys(set))
	var parts []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch j - i {
		case 0:
			parts = append(parts, strconv.Itoa(all[i]))
		case 1:
			parts = append(parts, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
