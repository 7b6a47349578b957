//! The bus's numbers: summed over all clients at scrape time, hop by hop.

use std::sync::atomic::{AtomicU64, Ordering};

use super::client::Client;
use super::{Registered, Shared};
use crate::actor;
use crate::engine::{Flow, FlowCounters};
use crate::telemetry::Samples;

/// What is counted beside the flows' own counters.
#[derive(Default)]
pub(super) struct BusCounters {
    sent: AtomicU64,
    received: AtomicU64,
    pub push: PushCounters,
    /// What clients that are gone had counted, so that sums never fall: publish and broadcast.
    retired: [FlowCounters; 2],
}

/// What is counted of webhooks.
#[derive(Default)]
pub(super) struct PushCounters {
    delivered: AtomicU64,
    failed: AtomicU64,
    dead_lettered: AtomicU64,
}

impl PushCounters {
    /// A message was answered with 2xx.
    pub fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt failed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was given up.
    pub fn dead_lettered(&self) {
        self.dead_lettered.fetch_add(1, Ordering::Relaxed);
    }
}

impl BusCounters {
    /// Messages were taken over REST.
    pub fn sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    /// Messages were handed out over REST and have arrived.
    pub fn received(&self, count: u64) {
        self.received.fetch_add(count, Ordering::Relaxed);
    }

    /// Keeps the counts of a client that is deleted.
    pub fn retire(&self, client: &Client) {
        let flows = [&client.publish_flow, &client.broadcast_flow];
        for (retired, flow) in self.retired.iter().zip(flows) {
            for ((_, _, read), value) in HOPS.iter().zip(values(&flow.counters)) {
                read(retired).fetch_add(value, Ordering::Relaxed);
            }
        }
    }
}

type Read = fn(&FlowCounters) -> &AtomicU64;

/// The hops: metric name, help, and where the count is.
const HOPS: [(&str, &str, Read); 7] = [
    (
        "backbone_bus_accepted_total",
        "Messages accepted by the bus",
        |counters| &counters.accepted,
    ),
    (
        "backbone_bus_fused_total",
        "Messages routed from outbox to inboxes without waiting on the way",
        |counters| &counters.fused,
    ),
    (
        "backbone_bus_forwarded_total",
        "Messages forwarded from outboxes and notify queues",
        |counters| &counters.forwarded,
    ),
    (
        "backbone_bus_published_total",
        "Messages routed by the bus's exchanges",
        |counters| &counters.published,
    ),
    (
        "backbone_bus_delivered_total",
        "Copies put into inboxes",
        |counters| &counters.delivered,
    ),
    (
        "backbone_bus_unrouted_total",
        "Messages that nobody subscribes to",
        |counters| &counters.unrouted,
    ),
    (
        "backbone_bus_dead_lettered_total",
        "Messages that could not be moved on",
        |counters| &counters.dead_lettered,
    ),
];

fn values(counters: &FlowCounters) -> [u64; HOPS.len()] {
    HOPS.map(|(_, _, read)| read(counters).load(Ordering::Relaxed))
}

/// Adds everything the bus counts to a scrape.
pub(super) fn sample(shared: &Shared, samples: &mut Samples) {
    let clients = shared.clients.len() as f64;
    samples.gauge("backbone_bus_clients", "Registered clients", &[], clients);
    let is_failing = |it: &Registered| it.client.push_state.lock().failing.is_some();
    let failing = shared.clients.iter().filter(|it| is_failing(it)).count();
    samples.gauge(
        "backbone_push_failing",
        "Clients whose webhook failed at the last call",
        &[],
        failing as f64,
    );
    samples.gauge(
        "backbone_bus_rest_leased",
        "Messages that were handed out over REST and are neither acknowledged nor back",
        &[],
        shared.leases.messages() as f64,
    );
    let counted = [
        (
            "backbone_bus_rest_sent_total",
            "Messages taken over REST",
            &shared.counters.sent,
        ),
        (
            "backbone_bus_rest_received_total",
            "Messages handed out over REST",
            &shared.counters.received,
        ),
        (
            "backbone_push_delivered_total",
            "Messages that webhooks have taken",
            &shared.counters.push.delivered,
        ),
        (
            "backbone_push_failed_total",
            "Calls of webhooks that failed",
            &shared.counters.push.failed,
        ),
        (
            "backbone_push_dead_lettered_total",
            "Messages that could not be pushed and were given up",
            &shared.counters.push.dead_lettered,
        ),
    ];
    for (name, help, counter) in counted {
        samples.counter(name, help, &[], counter.load(Ordering::Relaxed) as f64);
    }
    for (index, kind) in ["publish", "broadcast"].into_iter().enumerate() {
        let totals = totals(shared, index);
        for ((name, help, _), total) in HOPS.iter().zip(totals) {
            samples.counter(name, help, &[("flow", kind)], total as f64);
        }
    }
    sample_actors(samples);
}

/// The sums of one kind of flow: 0 publish, 1 broadcast.
fn totals(shared: &Shared, index: usize) -> [u64; HOPS.len()] {
    // Read before the clients: one that goes meanwhile is missed until the next scrape, not counted twice.
    let mut totals = values(&shared.counters.retired[index]);
    let mut add = |flow: &Flow| {
        for (total, value) in totals.iter_mut().zip(values(&flow.counters)) {
            *total += value;
        }
    };
    let own = [&shared.backbone.publish, &shared.backbone.broadcast][index];
    if let Some(flow) = own.flow() {
        add(&flow);
    }
    for entry in &shared.clients {
        add([&entry.client.publish_flow, &entry.client.broadcast_flow][index]);
    }
    totals
}

fn sample_actors(samples: &mut Samples) {
    for (kind, now) in actor::kinds() {
        let labels = [("kind", kind)];
        let counters = [
            (
                "backbone_actor_started_total",
                "Actors started",
                now.started,
            ),
            (
                "backbone_actor_stopped_total",
                "Actors that ended",
                now.stopped,
            ),
            ("backbone_actor_panics_total", "Panics caught", now.panics),
            (
                "backbone_actor_restarts_total",
                "Restarts after a panic",
                now.restarts,
            ),
            (
                "backbone_actor_given_up_total",
                "Actors given up",
                now.given_up,
            ),
            (
                "backbone_actor_messages_total",
                "Messages handled",
                now.messages,
            ),
            ("backbone_actor_wakes_total", "Wakes handled", now.wakes),
            (
                "backbone_actor_refused_total",
                "Messages refused by full mailboxes",
                now.refused_full,
            ),
            (
                "backbone_actor_ask_timeouts_total",
                "Questions unanswered in time",
                now.ask_timeouts,
            ),
        ];
        for (name, help, value) in counters {
            samples.counter(name, help, &labels, value as f64);
        }
        let depth = now.depth as f64;
        samples.gauge(
            "backbone_actor_mailbox_depth",
            "Messages waiting",
            &labels,
            depth,
        );
    }
}
