// A controller as many are written: it keeps a Deployment for every Boat, with leader election, a cache of selected
// objects, server-side apply, status, events and a finalizer. Its namespace is the only argument.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	clientgo "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	mooring = "clients.example.com/mooring"
	owner   = "boats"
)

type boats struct {
	client.Client
	events events.EventRecorder
}

func (r *boats) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	boat := &Boat{}
	if err := r.Get(ctx, request.NamespacedName, boat); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !boat.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.scuttle(ctx, boat)
	}
	if !controllerutil.ContainsFinalizer(boat, mooring) {
		before := boat.DeepCopyObject().(*Boat)
		controllerutil.AddFinalizer(boat, mooring)
		if err := r.Patch(ctx, boat, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return ctrl.Result{}, err
		}
	}
	if err := r.Apply(ctx, deployment(boat), client.FieldOwner(owner), client.ForceOwnership); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.report(ctx, boat)
}

// scuttle notes the boat's end in a ConfigMap and lets go of it.
func (r *boats) scuttle(ctx context.Context, boat *Boat) error {
	if !controllerutil.ContainsFinalizer(boat, mooring) {
		return nil
	}
	note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: boat.Namespace, Name: "sunk-" + boat.Name}}
	if err := r.Create(ctx, note); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	controllerutil.RemoveFinalizer(boat, mooring)
	return r.Update(ctx, boat)
}

func (r *boats) report(ctx context.Context, boat *Boat) error {
	made, cargo := &appsv1.Deployment{}, &corev1.ConfigMapList{}
	if err := r.Get(ctx, client.ObjectKeyFromObject(boat), made); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := r.List(ctx, cargo, client.InNamespace(boat.Namespace)); err != nil {
		return err
	}
	afloat := boat.DeepCopyObject().(*Boat)
	afloat.Status.ObservedGeneration = boat.Generation
	afloat.Status.Ready = made.Status.ReadyReplicas
	afloat.Status.Cargo = len(cargo.Items)
	condition := metav1.Condition{Type: "Afloat", Status: metav1.ConditionFalse, Reason: "Building"}
	if made.Status.ReadyReplicas == boat.Spec.Size {
		condition.Status, condition.Reason = metav1.ConditionTrue, "Built"
	}
	if meta.SetStatusCondition(&afloat.Status.Conditions, condition) {
		r.events.Eventf(boat, made, corev1.EventTypeNormal, condition.Reason, "Reconcile", "%d of %d ready",
			made.Status.ReadyReplicas, boat.Spec.Size)
	}
	return r.Status().Update(ctx, afloat)
}

func deployment(boat *Boat) *appsac.DeploymentApplyConfiguration {
	selected := map[string]string{"boat": boat.Name}
	return appsac.Deployment(boat.Name, boat.Namespace).
		WithOwnerReferences(metaac.OwnerReference().
			WithAPIVersion(groupVersion.String()).WithKind("Boat").WithName(boat.Name).WithUID(boat.UID).
			WithController(true).WithBlockOwnerDeletion(true)).
		WithSpec(appsac.DeploymentSpec().
			WithReplicas(boat.Spec.Size).
			WithSelector(metaac.LabelSelector().WithMatchLabels(selected)).
			WithTemplate(coreac.PodTemplateSpec().WithLabels(selected).WithSpec(coreac.PodSpec().
				WithTerminationGracePeriodSeconds(0).
				WithContainers(coreac.Container().WithName("main").WithImage(boat.Spec.Image).
					WithCommand("sleep", "10000")))))
}

// loaded finds the boats that count a ConfigMap that came or went.
func (r *boats) loaded(ctx context.Context, changed client.Object) []reconcile.Request {
	all, requests := &BoatList{}, []reconcile.Request{}
	if err := r.List(ctx, all, client.InNamespace(changed.GetNamespace())); err != nil {
		return nil
	}
	for i := range all.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
	}
	return requests
}

func run(namespace string) error {
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := clientgo.AddToScheme(scheme); err != nil {
		return err
	}
	if err := addBoats(scheme); err != nil {
		return err
	}
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Scheme:  scheme,
		Metrics: server.Options{BindAddress: "0"},
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{namespace: {}},
			ByObject: map[client.Object]cache.ByObject{
				&corev1.ConfigMap{}: {Label: labels.SelectorFromSet(labels.Set{"cargo": "true"})},
			},
		},
		LeaderElection:          true,
		LeaderElectionID:        "boats",
		LeaderElectionNamespace: namespace,
		LeaseDuration:           ptr.To(4 * time.Second),
		RenewDeadline:           ptr.To(3 * time.Second),
		RetryPeriod:             ptr.To(500 * time.Millisecond),
	})
	if err != nil {
		return err
	}
	reconciler := &boats{Client: manager.GetClient(), events: manager.GetEventRecorder("boats")}
	err = ctrl.NewControllerManagedBy(manager).
		For(&Boat{}).
		Owns(&appsv1.Deployment{}).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(reconciler.loaded)).
		Complete(reconciler)
	if err != nil {
		return err
	}
	go func() {
		<-manager.Elected()
		fmt.Println("leading")
	}()
	return manager.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
