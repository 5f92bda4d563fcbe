package compare

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/test/peers"
)

var (
	whole   = flag.Bool("whole", false, "also the scripts that wait for the pod garbage collector, and all recordings in the log")
	enabled = flag.Bool("compare", false, "run the comparison; it takes minutes")
)

// explained are the differences that are meant, each a pattern with the reason.
var explained = []struct{ pattern, why string }{
	{"^only upstream's: event Node .*CIDRAssignmentFailed", "upstream's allocator tells of a write that another one overtook, and then succeeds; ours tries again in silence"},
}

// script is a play: the nodes on the stage, and what happens.
type script struct {
	name  string
	nodes []string
	play  func(*stage)
	// evictions is how many nodes of a zone may be tainted a second.
	evictions string
	// late is how late the kubelets of the stage may be at most for the play to say
	// something about controllers: half a turn of their loops, or, where hardly any
	// times are compared, more.
	late time.Duration
}

var scripts = []script{
	{"node deaths in four zones, return, deletion", []string{"a0", "b0", "b1", "b2", "b3", "c0", "c1", "d0", "d1", "d2", "d3"}, zones, "0.5", 500 * time.Millisecond},
	{"two of three dead, all dead, return", []string{"a0", "a1", "a2"}, disaster, "0.2", 500 * time.Millisecond},
	{"workloads", []string{"a0", "b0", "c0"}, workloads, "0.5", 2 * time.Second},
	{"autoscaling", []string{"a0", "b0"}, autoscaling, "0.5", 500 * time.Millisecond},
}

func TestControllersDoAsUpstreams(t *testing.T) {
	if !*enabled {
		t.Skip("takes minutes: make compare-controllers")
	}
	peers.Need(t)
	for _, sc := range scripts {
		t.Run(sc.name, func(t *testing.T) {
			for take := 1; ; take++ {
				var late time.Duration
				t.Run(fmt.Sprint("take ", take), func(t *testing.T) { late = compare(t, sc) })
				if late < sc.late {
					return
				}
				if take == takes {
					t.Fatalf("the machine was too busy to compare anything: the stage was late by up to %v in each of %d takes", late, takes)
				}
			}
		})
	}
}

// takes is how often a script is played at most until the stage is in time.
const takes = 5

// compare plays a script on both sides at once and fails on the differences, unless
// the stage itself was late: then it returns by how much.
func compare(t *testing.T, sc script) (late time.Duration) {
	var stages [2]*stage
	for i, side := range []peers.Side{peers.Ours, peers.Upstream} {
		stages[i] = set(t, side, sc)
	}
	var wg sync.WaitGroup
	for _, s := range stages {
		s.begin()
		wg.Go(func() { sc.play(s) })
	}
	wg.Wait()
	late = max(stages[0].lateness(), stages[1].lateness())
	t.Logf("the stage was late by %v at most", late)
	if late >= sc.late || t.Failed() {
		return late
	}
	if *whole {
		show(t, stages[0])
	}
	for _, d := range differences(stages[0], stages[1]) {
		i := slices.IndexFunc(explained, func(e struct{ pattern, why string }) bool { return regexp.MustCompile(e.pattern).MatchString(d) })
		if i >= 0 {
			t.Logf("explained (%s): %s", explained[i].why, d)
			continue
		}
		t.Error(d)
	}
	return late
}

func (s *stage) namespace(name string) {
	_, err := s.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	s.eventually("service account of "+name, func() error {
		_, err := s.CoreV1().ServiceAccounts(name).Get(s.ctx, "default", metav1.GetOptions{})
		return err
	})
}

func template(app, image string) corev1.PodTemplateSpec {
	bear := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(tolerated))}
	}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: image}},
		Tolerations: []corev1.Toleration{bear(corev1.TaintNodeNotReady), bear(corev1.TaintNodeUnreachable)},
	}}
}

func (s *stage) deployment(ns, name, image string, replicas int32) {
	_, err := s.AppsV1().Deployments(ns).Create(s.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, image), ProgressDeadlineSeconds: new(int32(6))}}, metav1.CreateOptions{})
	s.must(err)
}

// complete is what `kubectl rollout status` waits for.
func (s *stage) complete(ns, name string) {
	s.eventually("rollout of "+ns+"/"+name, func() error {
		d, err := s.AppsV1().Deployments(ns).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n, st := *d.Spec.Replicas, d.Status; st.ObservedGeneration < d.Generation || st.UpdatedReplicas != n || st.Replicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

func (s *stage) change(ns, name string, f func(*appsv1.Deployment)) {
	s.eventually("change of "+name, func() error {
		d, err := s.AppsV1().Deployments(ns).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		f(d)
		_, err = s.AppsV1().Deployments(ns).Update(s.ctx, d, metav1.UpdateOptions{})
		return err
	})
}

// zones kills one of one, three of four, two of two and two of four nodes; one of
// the last comes back in time, and one is deleted.
func zones(s *stage) {
	s.namespace("zones")
	s.deployment("zones", "web", "app", 11)
	s.complete("zones", "web")
	// Of those that die together in a zone, which are seen first is chance, upstream
	// too, and whether the one that makes too many is still tainted, if a taint is
	// due then. So the three of b die in turn, the last when none is due.
	s.kill("a0", "b2", "c0", "d0")
	s.lull(4 * time.Second)
	s.kill("b0", "c1", "d1")
	s.lull(time.Second)
	s.kill("b1")
	s.lull(21 * time.Second)
	s.revive("b0", "b1", "b2", "d0")
	s.lull(8 * time.Second)
	s.rec.step("delete a0")
	s.must(s.CoreV1().Nodes().Delete(s.ctx, "a0", metav1.DeleteOptions{}))
	if *whole {
		s.lull(85 * time.Second)
	} else {
		s.lull(8 * time.Second)
	}
}

// disaster loses two of three nodes; one returns and is lost again with the last one;
// then all come back.
func disaster(s *stage) {
	s.namespace("zones-all")
	s.deployment("zones-all", "web", "app", 3)
	s.complete("zones-all", "web")
	s.kill("a0")
	s.lull(time.Second) // which of two that die together is tainted first is chance
	s.kill("a1")
	s.lull(24 * time.Second)
	s.revive("a1")
	s.lull(4 * time.Second)
	// As in zones: the one that makes too many dies when no taint is due, because the
	// one before has just had it.
	s.kill("a1")
	s.lull(3 * time.Second)
	s.kill("a2")
	s.lull(22 * time.Second)
	s.revive("a0", "a1", "a2")
	s.lull(10 * time.Second)
}

// workloads plays each workload in a namespace of its own, all at once.
func workloads(s *stage) {
	var wg sync.WaitGroup
	for ns, play := range map[string]func(*stage, string){"rollout": rollout, "stuck": stuck, "scale": scale, "drain": drain, "jobs": jobs, "indexes": indexes, "farewell": farewell, "ordered": ordered, "daemons": daemons} {
		s.namespace(ns)
		wg.Go(func() { play(s, ns) })
	}
	wg.Wait()
	s.lull(3 * time.Second)
}

func setImage(image string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image }
}

// rollout is one forth and, as kubectl rollout undo does it, one back.
func rollout(s *stage, ns string) {
	s.deployment(ns, "web", "app:1", 4)
	s.complete(ns, "web")
	s.change(ns, "web", setImage("app:2"))
	s.complete(ns, "web")
	s.change(ns, "web", setImage("app:1"))
	s.complete(ns, "web")
}

// stuck waits for the deadline of a rollout that gets nowhere, and then gives it a better image.
func stuck(s *stage, ns string) {
	s.deployment(ns, "web", "app:1", 3)
	s.complete(ns, "web")
	s.change(ns, "web", setImage("bad"))
	s.eventually("the deadline", func() error {
		d, err := s.AppsV1().Deployments(ns).Get(s.ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Reason == "ProgressDeadlineExceeded" {
				return nil
			}
		}
		return fmt.Errorf("%+v", d.Status)
	})
	s.change(ns, "web", setImage("app:3"))
	s.complete(ns, "web")
}

func scale(s *stage, ns string) {
	s.deployment(ns, "web", "app:1", 2)
	s.complete(ns, "web")
	for _, n := range []int32{5, 1} {
		s.change(ns, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
		s.complete(ns, "web")
	}
}

// drain evicts every pod, as kubectl drain does, against a budget of two of three.
func drain(s *stage, ns string) {
	_, err := s.PolicyV1().PodDisruptionBudgets(ns).Create(s.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: new(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}, metav1.CreateOptions{})
	s.must(err)
	s.deployment(ns, "web", "app:1", 3)
	s.complete(ns, "web")
	pods, err := s.CoreV1().Pods(ns).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, p := range pods.Items {
		lost := s.rec.count("deployment "+ns+"/web", "Available=False")
		s.eventually("eviction", func() error {
			return s.CoreV1().Pods(ns).EvictV1(s.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: p.Name}})
		})
		// The next eviction is allowed as soon as the pod is replaced, which the
		// deployment may or may not have said by then.
		s.eventually("loss of a pod", func() error {
			if s.rec.count("deployment "+ns+"/web", "Available=False") == lost {
				return errors.New("the deployment has not seen it")
			}
			return nil
		})
		s.complete(ns, "web")
	}
}

func (s *stage) job(ns, name, image string, f func(*batchv1.JobSpec)) {
	spec := batchv1.JobSpec{Template: template(name, image)}
	spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	f(&spec)
	_, err := s.BatchV1().Jobs(ns).Create(s.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	s.must(err)
}

// jobs end well, fail too often, fail by a policy, and take too long; one is somebody
// else's, one is suspended.
func jobs(s *stage, ns string) {
	create := func(name, image string, f func(*batchv1.JobSpec)) { s.job(ns, name, image, f) }
	create("well", "done", func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = new(int32(3)), new(int32(2)) })
	create("limit", "fails", func(j *batchv1.JobSpec) { j.BackoffLimit = new(int32(1)) })
	create("late", "app", func(j *batchv1.JobSpec) { j.ActiveDeadlineSeconds = new(int64(3)) })
	create("policy", "fails", func(j *batchv1.JobSpec) {
		j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}}}}}
	})
	create("brief", "done", func(j *batchv1.JobSpec) { j.TTLSecondsAfterFinished = new(int32(2)) })
	create("restarts", "crashes", func(j *batchv1.JobSpec) {
		j.BackoffLimit, j.Template.Spec.RestartPolicy = new(int32(2)), corev1.RestartPolicyOnFailure
	})
	create("handed", "done", func(j *batchv1.JobSpec) { j.ManagedBy = new("example.com/other") })
	create("paused", "app", func(j *batchv1.JobSpec) { j.Parallelism, j.BackoffLimit = new(int32(3)), new(int32(1)) })
	s.lull(10 * time.Second)
	s.changeJob(ns, "paused", func(j *batchv1.JobSpec) { j.Suspend = new(true) })
	s.lull(15 * time.Second)
}

func (s *stage) changeJob(ns, name string, f func(*batchv1.JobSpec)) {
	s.eventually("change of "+name, func() error {
		j, err := s.BatchV1().Jobs(ns).Get(s.ctx, name, metav1.GetOptions{})
		if err == nil {
			f(&j.Spec)
			_, err = s.BatchV1().Jobs(ns).Update(s.ctx, j, metav1.UpdateOptions{})
		}
		return err
	})
}

// indexes fail one by one, too many of them, or at once by a policy; some are enough; the
// last is given up. They come when the other jobs are done with most: upstream's controller
// sends 20 requests a second.
func indexes(s *stage, ns string) {
	create := func(name, image string, n int32, f func(*batchv1.JobSpec)) {
		s.lull(2 * time.Second)
		s.job(ns, name, image, func(j *batchv1.JobSpec) {
			j.CompletionMode, j.Completions, j.Parallelism = new(batchv1.IndexedCompletion), &n, &n
			f(j)
		})
	}
	s.lull(6 * time.Second)
	create("odd", "odd", 4, func(j *batchv1.JobSpec) { j.BackoffLimitPerIndex = new(int32(1)) })
	create("most", "fails", 2, func(j *batchv1.JobSpec) { j.BackoffLimitPerIndex, j.MaxFailedIndexes = new(int32(0)), new(int32(1)) })
	create("hopeless", "odd", 2, func(j *batchv1.JobSpec) {
		j.BackoffLimitPerIndex = new(int32(3))
		j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailIndex,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}}}}}
	})
	create("leader", "leader", 3, func(j *batchv1.JobSpec) {
		j.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: new(int32(2))}, {SucceededIndexes: new("0")}}}
	})
	create("shrunk", "app", 3, func(*batchv1.JobSpec) {})
	s.lull(4 * time.Second)
	s.changeJob(ns, "shrunk", func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = new(int32(2)), new(int32(2)) })
	s.lull(4 * time.Second)
}

// farewell deletes a namespace with a Deployment, and a pod that takes its time, in it.
func farewell(s *stage, ns string) {
	s.deployment(ns, "web", "app:1", 2)
	s.complete(ns, "web")
	s.must(s.CoreV1().Namespaces().Delete(s.ctx, ns, metav1.DeleteOptions{}))
	s.lull(15 * time.Second)
}

func ordered(s *stage, ns string) {
	set, err := s.AppsV1().StatefulSets(ns).Create(s.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template("db", "db:1")}}, metav1.CreateOptions{})
	s.must(err)
	updated := func(generation int64) {
		s.eventually("statefulset", func() error {
			if set, err = s.AppsV1().StatefulSets(ns).Get(s.ctx, "db", metav1.GetOptions{}); err != nil {
				return err
			}
			if st := set.Status; st.ObservedGeneration < generation || st.ReadyReplicas != *set.Spec.Replicas || st.Replicas != st.ReadyReplicas || st.CurrentRevision != st.UpdateRevision {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
	}
	updated(set.Generation)
	for _, f := range []func(){func() { set.Spec.Template.Spec.Containers[0].Image = "db:2" }, func() { set.Spec.Replicas = new(int32(1)) }} {
		f()
		set, err = s.AppsV1().StatefulSets(ns).Update(s.ctx, set, metav1.UpdateOptions{})
		s.must(err)
		updated(set.Generation)
	}
}

func daemons(s *stage, ns string) {
	set, err := s.AppsV1().DaemonSets(ns).Create(s.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "log"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}, Template: template("log", "log:1")}}, metav1.CreateOptions{})
	s.must(err)
	updated := func(generation int64) {
		s.eventually("daemonset", func() error {
			if set, err = s.AppsV1().DaemonSets(ns).Get(s.ctx, "log", metav1.GetOptions{}); err != nil {
				return err
			}
			if st := set.Status; st.ObservedGeneration < generation || st.UpdatedNumberScheduled != 3 || st.NumberAvailable != 3 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
	}
	updated(set.Generation)
	set.Spec.Template.Spec.Containers[0].Image = "log:2"
	set, err = s.AppsV1().DaemonSets(ns).Update(s.ctx, set, metav1.UpdateOptions{})
	s.must(err)
	updated(set.Generation)
}
