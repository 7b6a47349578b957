//! AMQP as its clients see it: one program of tests, so that there is one to link. A file each for what it is about; run one with
//! `cargo test --test amqp NAME::`.

mod common;

#[path = "amqp_backpressure.rs"]
mod backpressure;
#[path = "amqp_blocked.rs"]
mod blocked;
#[path = "amqp_channels.rs"]
mod channels;
#[path = "amqp_consumers.rs"]
mod consumers;
#[path = "amqp_dead_letters.rs"]
mod dead_letters;
#[path = "amqp_dead_peers.rs"]
mod dead_peers;
#[path = "amqp_dedup.rs"]
mod dedup;
#[path = "amqp_exchanges.rs"]
mod exchanges;
#[path = "amqp_exclusive.rs"]
mod exclusive;
#[path = "amqp_garbage.rs"]
mod garbage;
#[path = "amqp_history.rs"]
mod history;
#[path = "amqp_lapin.rs"]
mod lapin;
#[path = "amqp_limits.rs"]
mod limits;
#[path = "amqp_pause.rs"]
mod pause;
#[path = "amqp_permissions.rs"]
mod permissions;
#[path = "amqp_policies.rs"]
mod policies;
#[path = "amqp_priorities.rs"]
mod priorities;
#[path = "amqp_proxy.rs"]
mod proxy;
#[path = "amqp_reply_to.rs"]
mod reply_to;
#[path = "amqp_shutdown.rs"]
mod shutdown;
#[path = "amqp_time.rs"]
mod time;
#[path = "amqp_unix.rs"]
mod unix;
#[path = "amqp_vhosts.rs"]
mod vhosts;
