//! What stands beside a busy future in the same task, and is looked at only when it woke: most
//! wakes of a connection bring bytes, and none of them has to ask every deadline again.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// A future that is polled only after its own wake.
pub struct Aside<F> {
    future: F,
    flag: Arc<Flag>,
    /// The flag, as the future sees it.
    waker: Waker,
    /// The task that the flag was told of.
    task: Option<Waker>,
}

#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }
}

impl<F: Future + Unpin> Aside<F> {
    /// Stands a future aside. A pinned one: `pin!(…)` or `Box::pin(…)`.
    pub fn new(future: F) -> Self {
        // nobody has asked it yet
        let flag = Arc::new(Flag {
            woken: AtomicBool::new(true),
            task: Mutex::default(),
        });
        Self {
            future,
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            task: None,
        }
    }
}

impl<F: Future + Unpin> Future for Aside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        // the task is known to the flag before the flag is read: a wake after that reaches it
        if this
            .task
            .as_ref()
            .is_none_or(|task| !task.will_wake(cx.waker()))
        {
            let mut task = this
                .flag
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *task = Some(cx.waker().clone());
            this.task = Some(cx.waker().clone());
        }
        // a look costs less than a swap, and mostly finds nothing
        let flag = &this.flag.woken;
        if !flag.load(Ordering::Acquire) || !flag.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicUsize, task::Waker, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_for_its_own_wakes_and_for_no_others() {
        let polls = AtomicUsize::new(0);
        let mut timer = pin!(tokio::time::sleep(Duration::from_secs(5)));
        let mut aside = Aside::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            timer.as_mut().poll(cx)
        }));
        for _ in 0..100 {
            tokio::select! {
                biased;
                () = &mut aside => panic!("five seconds are not over"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        assert_eq!(
            polls.load(Ordering::Relaxed),
            1,
            "it was asked without a wake"
        );
        aside.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_wake_reaches_the_task_that_polled_last() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let inner: Arc<Mutex<Option<Waker>>> = Arc::default();
        let kept = Arc::clone(&inner);
        let mut aside = Aside::new(poll_fn(move |cx| {
            *kept.lock().unwrap() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for task in [&first, &second] {
            let waker = Waker::from(Arc::clone(task));
            assert!(
                Pin::new(&mut aside)
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        let waker = inner.lock().unwrap().take().unwrap();
        waker.wake();
        assert_eq!(
            (
                first.0.load(Ordering::Relaxed),
                second.0.load(Ordering::Relaxed)
            ),
            (0, 1)
        );
    }
}
