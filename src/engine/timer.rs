//! The thread that looks at the clock for the broker: messages and queues that expire, and dead letters that the log refused.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use backbone_broker::vhosts::Vhosts;

use super::now_ms;

/// How long it sleeps when nothing is due. It looks that often whether dead letters went in circles.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Starts the thread, one for all vhosts; it ends with them.
///
/// # Errors
/// No thread can be made.
pub fn start(vhosts: &Arc<Vhosts>) -> std::io::Result<()> {
    // One that waits already is as good as two.
    let (sender, receiver) = sync_channel(1);
    vhosts.on_change(move || {
        let _ = sender.try_send(());
    });
    let vhosts = Arc::downgrade(vhosts);
    let thread = thread::Builder::new().name("timer".into());
    thread.spawn(move || serve(&vhosts, &receiver)).map(drop)
}

fn serve(vhosts: &Weak<Vhosts>, changed: &Receiver<()>) {
    loop {
        let sleep = {
            let Some(vhosts) = vhosts.upgrade() else {
                return;
            };
            let next = vhosts.tick(now_ms());
            report_circles(&vhosts);
            // By the clock of now: the tick may have taken long.
            next.map(|next| Duration::from_millis(next.saturating_sub(now_ms())))
        };
        match changed.recv_timeout(sleep.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Says that dead letters went in a circle, if some did since the last time.
fn report_circles(vhosts: &Vhosts) {
    for vhost in vhosts.list() {
        if let Some(circle) = vhost.take_circle() {
            let (vhost, queue, dropped) = (&**vhost.name(), &*circle.queue, circle.dropped);
            tracing::warn!(
                vhost,
                queue,
                dropped,
                "dead letters that went in a circle without a reject were dropped"
            );
        }
    }
}
