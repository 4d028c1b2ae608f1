//! How the kernel lets our threads run, asked for once at the start.

use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, get_scheduler, set_scheduler};

use crate::config::Scheduling;

/// Sets what the calling thread has, and with it every thread that comes of it.
///
/// Woken by a packet, a thread under `SCHED_OTHER` interrupts whoever runs on its core, often the
/// very one that wakes it, in the middle of what it sends. Under `SCHED_BATCH` it begins when that one
/// waits or its slice ends, and finds more to do at once. Niceness stays as it is, and so does another
/// policy than the usual one: somebody chose it.
pub(super) fn set(wanted: Scheduling) {
    let me = Pid::current_thread();
    if wanted == Scheduling::Inherit || !matches!(get_scheduler(me), Ok(Scheduler::SCHED_NORMAL)) {
        return;
    }
    let usual = SchedulerParams { priority: 0 };
    if let Err(error) = set_scheduler(me, Scheduler::SCHED_BATCH, usual) {
        tracing::info!(
            %error,
            "the system does not let us choose SCHED_BATCH: a request costs more CPU; \
             CPUSchedulingPolicy=batch in the unit chooses it, [runtime] scheduling = \"inherit\" says nothing of it"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What a thread has that was started by one with this choice.
    fn of_a_thread(before: Scheduler, wanted: Scheduling) -> Scheduler {
        let started = thread::spawn(move || {
            let me = Pid::current_thread();
            set_scheduler(me, before, SchedulerParams { priority: 0 }).unwrap();
            set(wanted);
            let child = thread::spawn(move || get_scheduler(me).unwrap());
            child.join().unwrap()
        });
        started.join().unwrap()
    }

    #[test]
    fn threads_have_the_policy_that_was_chosen() {
        use Scheduler::{SCHED_BATCH, SCHED_IDLE, SCHED_NORMAL};
        assert_eq!(of_a_thread(SCHED_NORMAL, Scheduling::Batch), SCHED_BATCH);
        assert_eq!(of_a_thread(SCHED_NORMAL, Scheduling::Inherit), SCHED_NORMAL);
        // a policy that somebody else chose stays
        assert_eq!(of_a_thread(SCHED_IDLE, Scheduling::Batch), SCHED_IDLE);
    }
}
