//! Persistent messages: the way through the log as well, on a disk that takes everything and keeps nothing.
//!
//! One thread does all: it publishes, writes, confirms, delivers, settles and applies.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use backbone_broker::durable::{Durable, Level};
use backbone_broker::pager::Pager;
use backbone_broker::vhost::Vhost;
use backbone_log::disk::{Disk, File, Mode};
use backbone_log::{Arena, Config, Log};
use backbone_wire::properties::{Properties, PropertiesBuilder};
use parking_lot::Mutex;

use crate::peer::{self, Peer, ack};
use crate::queues::{BATCH, IN_TURN_QUEUES, check};

/// Files have names and sizes.
#[derive(Default)]
struct Nowhere(Mutex<BTreeMap<String, u64>>);

struct Hole(u64);

impl Disk for Nowhere {
    fn lock(&self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.lock().insert(name.to_owned(), bytes);
        Ok(())
    }

    fn open(&self, name: &str, _mode: Mode) -> io::Result<Arc<dyn File>> {
        let size = self.0.lock().get(name).copied();
        Ok(Arc::new(Hole(size.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        let size = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), size);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.0.lock().remove(name);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn alignment(&self) -> usize {
        1
    }
}

impl File for Hole {
    fn write_at(&self, data: &[u8], _offset: u64) -> io::Result<usize> {
        Ok(data.len())
    }

    fn read_at(&self, into: &mut [u8], _offset: u64) -> io::Result<usize> {
        into.fill(0);
        Ok(into.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0)
    }
}

/// 16-byte persistent messages to one queue, with confirms, and one acknowledgement of all messages of a batch.
pub fn one() -> Box<dyn FnMut()> {
    workload(1)
}

/// The same to 1,000 queues in turn.
pub fn in_turn() -> Box<dyn FnMut()> {
    workload(IN_TURN_QUEUES)
}

fn workload(queues: usize) -> Box<dyn FnMut()> {
    let log = Log::open(Arc::new(Nowhere::default()), Config::default(), |_| ());
    let (log, _) = log.expect("nothing goes wrong nowhere");
    let durable = Arc::new(Durable::new(log.clone()));
    let arena = Arc::new(Arena::new());
    let pager = Pager::new(Arc::clone(&arena), Arc::clone(&durable), usize::MAX, |_| ());
    let vhost = Vhost::new("/", 7, arena).with_log(durable, Arc::new(pager), Level::Written);
    let vhost = Arc::new(vhost);
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumers = [Peer::new(&vhost, 2)];
    let name = |n: usize| format!("bench-queue-{:03}", n % queues);
    for n in 0..queues {
        publisher.declare(&name(n));
        consumers[0].consume_as(&format!("c-{n:04}"), &name(n), false);
    }
    publisher.confirms();
    let inputs = [0, BATCH].map(|from| {
        let (mut persistent, mut bytes) = (Vec::new(), Vec::new());
        let properties = PropertiesBuilder {
            delivery_mode: Some(2),
            ..PropertiesBuilder::default()
        };
        properties.write(&mut persistent);
        for n in from..from + BATCH {
            let properties = Properties::from_bytes(&persistent).expect("just built");
            peer::publish("", &name(n), properties, &[b'x'; 16], &mut bytes);
        }
        bytes
    });
    let (mut turn, mut tag, mut seen) = (0, 0, 0);
    let mut acks = Vec::new();
    Box::new(move || {
        publisher.receive(&inputs[turn]);
        turn = 1 - turn;
        log.write_step().expect("nothing goes wrong nowhere");
        let confirmed = publisher.sent_bytes;
        publisher.progressed();
        assert!(publisher.sent_bytes > confirmed, "confirms are missing");
        consumers[0].deliver();
        tag += BATCH as u64;
        acks.clear();
        ack(tag, &mut acks);
        consumers[0].receive(&acks);
        log.write_step().expect("nothing goes wrong nowhere");
        // Whoever asks for what the log says has it applied first.
        assert!(!log.unsettled(u64::MAX, 0..1).is_empty());
        seen = check(&consumers, seen, BATCH * 16);
    })
}
