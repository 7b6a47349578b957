//! The thread that brings messages back from the log before their consumers want them, gives up memory when it
//! is tight, and says what of the log is damaged.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use backbone_broker::definitions::BESIDE;
use backbone_broker::durable::Durable;
use backbone_broker::pager::Pager;
use backbone_broker::queue::{Queue, Wakes};
use backbone_broker::vhost::Vhost;
use backbone_broker::vhosts::Vhosts;

/// How often it looks whether memory is tight.
const LOOK: Duration = Duration::from_millis(100);
/// After which it goes on making room, if there is more to be made.
const GO_ON: Duration = Duration::from_millis(1);

/// Queues that want their next page.
pub struct Wanted(Receiver<Weak<Queue>>);

/// A pager, and what it is asked for, which [`start`] serves.
pub fn pager(vhost: &Vhost, durable: &Arc<Durable>, tight_bytes: usize) -> (Arc<Pager>, Wanted) {
    let (sender, receiver) = channel();
    let (arena, durable) = (Arc::clone(vhost.arena()), Arc::clone(durable));
    let pager = Pager::new(arena, durable, tight_bytes, move |queue| {
        // Without the thread the process is about to end.
        let _ = sender.send(queue);
    });
    (Arc::new(pager), Wanted(receiver))
}

/// Starts the thread; it ends with the vhosts.
///
/// # Errors
/// No thread can be made.
pub fn start(vhosts: &Arc<Vhosts>, wanted: Wanted) -> std::io::Result<()> {
    let vhosts = Arc::downgrade(vhosts);
    let thread = thread::Builder::new().name("pager".into());
    thread.spawn(move || serve(&vhosts, &wanted.0)).map(drop)
}

fn serve(vhosts: &Weak<Vhosts>, wanted: &Receiver<Weak<Queue>>) {
    let mut failed = Vec::new();
    let (mut looked, mut rest) = (Instant::now(), LOOK);
    let mut reported = 0;
    loop {
        let asked = wanted.recv_timeout(rest.saturating_sub(looked.elapsed()));
        let Some(vhosts) = vhosts.upgrade() else {
            return;
        };
        let Some(pager) = vhosts.first().pager() else {
            return;
        };
        match asked {
            Ok(queue) if queue.strong_count() == 0 => rest = GO_ON,
            Ok(queue) => page_in(pager, queue, &mut failed),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if looked.elapsed() < rest {
            continue;
        }
        for queue in std::mem::take(&mut failed) {
            page_in(pager, queue, &mut failed);
        }
        rest = make_room(&vhosts, pager);
        reported = report_damages(&vhosts, reported);
        looked = Instant::now();
    }
}

/// Makes room if memory is tight; says when to look again.
fn make_room(vhosts: &Vhosts, pager: &Pager) -> Duration {
    let [_, before, _] = pager.counts();
    if pager.is_tight() && pager.relieve(&vhosts.stores()) {
        return GO_ON;
    }
    // If there was nothing to be given up, calls are heard with the next look only.
    let [_, after, _] = pager.counts();
    if after > before || !pager.is_tight() {
        pager.heard_call();
    }
    LOOK
}

/// Brings a queue's next messages in; if they cannot be read, the queue is tried again with the next look.
fn page_in(pager: &Pager, wanted: Weak<Queue>, failed: &mut Vec<Weak<Queue>>) {
    let Some(queue) = wanted.upgrade() else {
        return;
    };
    let mut wakes = Wakes::default();
    if let Err(error) = pager.page_in(&queue, &mut wakes) {
        tracing::error!(queue = &**queue.name(), %error, "messages cannot be read back, trying again");
        failed.push(wanted);
    }
    wakes.ring();
}

/// Says where bytes of the log were found to be damaged since `reported` were, and whose messages may have been there.
fn report_damages(vhosts: &Vhosts, reported: usize) -> usize {
    let Some(log) = vhosts.first().durable().map(|durable| durable.log()) else {
        return reported;
    };
    if log.observe().damages == reported {
        return reported;
    }
    let queues = vhosts.queues();
    let damages = log.damages();
    for damage in damages.iter().skip(reported) {
        let ids: Vec<u64> = damage.queues.iter().map(|id| id & !BESIDE).collect();
        let named = queues.iter().filter(|queue| queue.has_any_id(&ids));
        let queues: Vec<&str> = named.map(|queue| &**queue.name()).collect();
        let (file, offset, bytes) = (&*damage.file, damage.offset, damage.bytes);
        tracing::error!(
            file,
            offset,
            bytes,
            ?queues,
            "damaged bytes in the log: messages may be missing"
        );
    }
    damages.len()
}
