//! What happens to a queue.

use proptest::prelude::*;

use crate::queue::DeleteIf;
use crate::queue::consumer::ASSIGNED_MAX;

#[derive(Debug, Clone)]
pub enum Op {
    Push(usize),
    Consume {
        prefetch: u32,
        no_ack: bool,
        shared: Option<usize>,
        exclusive: bool,
        mover: bool,
        priority: i64,
    },
    Fetch(usize, usize, usize),
    Settle(usize, usize),
    Requeue(usize, u64),
    Cancel(usize),
    Leave(usize),
    Take(usize),
    Purge,
    Pause(bool),
    Limit(usize, u32),
    Share(usize, usize),
    Delete(DeleteIf),
}

pub fn op() -> impl Strategy<Value = Op> {
    let consume = (
        0u32..5,
        any::<bool>(),
        proptest::option::of(0usize..2),
        0u8..20,
        prop_oneof![3 => Just(0i64), 2 => -1i64..2],
    )
        .prop_map(
            |(prefetch, no_ack, shared, special, priority)| Op::Consume {
                prefetch: if no_ack { 0 } else { prefetch },
                no_ack: no_ack && special != 1,
                shared: if no_ack { None } else { shared },
                exclusive: special == 0,
                mover: special == 1,
                priority,
            },
        );
    let fetch = (
        any::<usize>(),
        1usize..6,
        prop_oneof![1usize..60, Just(usize::MAX)],
    )
        .prop_map(|(who, count, bytes)| Op::Fetch(who, count, bytes));
    let fetch_all = any::<usize>().prop_map(|who| Op::Fetch(who, 1000, usize::MAX));
    prop_oneof![
        6 => (1usize..6).prop_map(Op::Push),
        1 => Just(Op::Push(2 * ASSIGNED_MAX)),
        4 => consume,
        6 => fetch,
        3 => fetch_all,
        5 => (any::<usize>(), 1usize..5).prop_map(|(who, count)| Op::Settle(who, count)),
        4 => (any::<usize>(), any::<u64>()).prop_map(|(who, which)| Op::Requeue(who, which)),
        2 => any::<usize>().prop_map(Op::Cancel),
        2 => any::<usize>().prop_map(Op::Leave),
        2 => (1usize..4).prop_map(Op::Take),
        1 => Just(Op::Purge),
        2 => any::<bool>().prop_map(Op::Pause),
        2 => (0usize..2, 0u32..5).prop_map(|(which, limit)| Op::Limit(which, limit)),
        1 => (any::<usize>(), 0usize..2).prop_map(|(who, which)| Op::Share(who, which)),
        1 => any::<bool>().prop_map(|unused| Op::Delete(DeleteIf { unused, empty: true })),
    ]
}
