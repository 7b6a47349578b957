//! A run with a client library as users have it: lapin on a tokio runtime with two workers.
//!
//! A publisher awaits each `basic_publish` and keeps up to a window of confirms; a consumer reads its
//! stream. What is checked is what the raw client checks, with the same notes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
};
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::board::Board;
use crate::confirms::histogram;
use crate::consumer::Checks;
use crate::machine::CpuTimes;
use crate::options::{Ack, Scenario};
use crate::publisher::{Published, quota};
use crate::run::{Outcome, board, set_due};
use crate::scan::{HEAD, Message};
use crate::slab::{Names, body_template, stamp};
use crate::verify::Faults;

/// Workers of the runtime.
const WORKERS: usize = 2;
/// How long a consumer waits before it looks whether the run is over.
const LOOK: Duration = Duration::from_millis(100);

/// A connection with one channel; the connection closes when it is dropped.
struct Link {
    connection: Connection,
    channel: Channel,
}

struct Publisher {
    id: usize,
    link: Link,
    queue: String,
    scenario: Arc<Scenario>,
    /// Publishes that wait for their confirm, and when they were sent.
    waiting: VecDeque<(u64, PublisherConfirm)>,
    done: Published,
}

struct Consumer {
    link: Link,
    stream: lapin::Consumer,
    group: usize,
    scenario: Arc<Scenario>,
    unacked: u32,
    checks: Checks,
}

/// Opens all connections, publishes, consumes, and notes what was seen.
///
/// # Errors
/// When a connection cannot be opened.
pub fn measure(scenario: &Scenario, names: &Names) -> Result<Outcome> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    runtime.block_on(measure_here(&Arc::new(scenario.clone()), names))
}

async fn measure_here(scenario: &Arc<Scenario>, names: &Names) -> Result<Outcome> {
    let mut consumers = Vec::new();
    for index in 0..scenario.consumers {
        consumers.push(Consumer::open(index, scenario, names).await?);
    }
    let mut publishers = Vec::new();
    for id in 0..scenario.publishers {
        publishers.push(Publisher::open(id, scenario, names).await?);
    }
    let board = Arc::new(board(scenario, 1));
    let before = CpuTimes::now(scenario.broker_pid);
    let consumers: Vec<_> = consumers
        .into_iter()
        .map(|c| (c.group, spawn(&board, |board| c.run(board))))
        .collect();
    let publishers: Vec<_> = publishers
        .into_iter()
        .map(|p| spawn(&board, |board| p.run(board)))
        .collect();
    let mut problems = Vec::new();
    let mut published = Vec::new();
    for (id, task) in publishers.into_iter().enumerate() {
        published.push(join(task, &format!("publisher {id}"), &mut problems).await);
    }
    let counts: Vec<u64> = published
        .iter()
        .map(|p| p.as_ref().map_or(0, |p| p.count))
        .collect();
    set_due(&board, scenario, &counts);
    let mut consumed = Vec::new();
    for (index, (group, task)) in consumers.into_iter().enumerate() {
        let checks = join(task, &format!("consumer {index}"), &mut problems).await;
        consumed.push((group, checks));
    }
    Ok(Outcome {
        published,
        consumed,
        problems,
        cpu: before.until(&CpuTimes::now(scenario.broker_pid)),
    })
}

/// Starts a task that ends the run for all when it fails.
fn spawn<T, F>(board: &Arc<Board>, run: impl FnOnce(Arc<Board>) -> F) -> JoinHandle<Result<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let board = Arc::clone(board);
    let work = run(Arc::clone(&board));
    tokio::spawn(async move {
        let result = work.await;
        if result.is_err() {
            board.abort();
        }
        result
    })
}

async fn join<T>(task: JoinHandle<Result<T>>, who: &str, problems: &mut Vec<String>) -> Option<T> {
    let result = task.await.context("panicked").and_then(|result| result);
    result
        .map_err(|error| problems.push(format!("{who}: {error:#}")))
        .ok()
}

impl Link {
    async fn open(scenario: &Scenario) -> Result<Self> {
        let Scenario {
            host,
            port,
            user,
            password,
            vhost,
            ..
        } = scenario;
        let vhost = vhost.replace('/', "%2f");
        let uri = format!("amqp://{user}:{password}@{host}:{port}/{vhost}");
        let connection = Connection::connect(&uri, ConnectionProperties::default())
            .await
            .with_context(|| format!("lapin connecting to {host}:{port}"))?;
        let channel = connection.create_channel().await?;
        Ok(Link {
            connection,
            channel,
        })
    }

    async fn close(self) -> Result<()> {
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

impl Publisher {
    async fn open(id: usize, scenario: &Arc<Scenario>, names: &Names) -> Result<Self> {
        let link = Link::open(scenario).await?;
        if scenario.confirm_window > 0 {
            let options = ConfirmSelectOptions::default();
            link.channel.confirm_select(options).await?;
        }
        Ok(Publisher {
            id,
            link,
            queue: names.queue(id % scenario.queues),
            scenario: Arc::clone(scenario),
            waiting: VecDeque::new(),
            done: Published {
                count: 0,
                span_ns: None,
                faults: Faults::default(),
                confirm_ns: histogram(),
                lag_ns: histogram(),
            },
        })
    }

    async fn run(mut self, board: Arc<Board>) -> Result<Published> {
        let scenario = Arc::clone(&self.scenario);
        let (messages, end_ns) = match scenario.messages {
            0 => {
                let length_ns = (scenario.duration_s * 1e9) as u64;
                (u64::MAX, board.clock.ns() + length_ns)
            }
            all => {
                let mine = quota(all, scenario.publishers as u64, self.id as u64);
                (mine, u64::MAX)
            }
        };
        let mut body = body_template(scenario.size);
        let mut now = board.clock.ns();
        while self.done.count < messages && now < end_ns && !board.aborted() {
            self.publish(&mut body, now).await?;
            if self.waiting.len() == scenario.confirm_window && !self.waiting.is_empty() {
                self.confirm_oldest(&board).await?;
            }
            now = board.clock.ns();
        }
        while !self.waiting.is_empty() && !board.aborted() {
            self.confirm_oldest(&board).await?;
        }
        if let Some((_, last)) = &mut self.done.span_ns {
            *last = board.clock.ns();
        }
        self.link.close().await?;
        Ok(self.done)
    }

    async fn publish(&mut self, body: &mut [u8], now: u64) -> Result<()> {
        body[..8].copy_from_slice(&self.done.count.to_le_bytes());
        body[8..HEAD].copy_from_slice(&stamp(self.id, now).to_le_bytes());
        let properties = if self.scenario.persistent {
            BasicProperties::default().with_delivery_mode(2)
        } else {
            BasicProperties::default()
        };
        let publish = self.link.channel.basic_publish(
            "".into(),
            self.queue.as_str().into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        let confirm = publish.await.context("publishing")?;
        if self.scenario.confirm_window > 0 {
            self.waiting.push_back((now, confirm));
        }
        self.done.count += 1;
        self.done.span_ns.get_or_insert((now, now));
        Ok(())
    }

    async fn confirm_oldest(&mut self, board: &Board) -> Result<()> {
        let Some((sent_ns, confirm)) = self.waiting.pop_front() else {
            return Ok(());
        };
        let stall = Duration::from_secs(self.scenario.stall_s);
        let Ok(confirmation) = timeout(stall, confirm).await else {
            bail!("a publish is not confirmed after {stall:?}");
        };
        match confirmation? {
            Confirmation::Ack(_) => {}
            Confirmation::Nack(_) => self.done.faults.nacked += 1,
            Confirmation::NotRequested => bail!("a confirm that was not asked for"),
        }
        let waited = board.clock.ns().saturating_sub(sent_ns);
        self.done.confirm_ns.saturating_record(waited);
        Ok(())
    }
}

impl Consumer {
    async fn open(index: usize, scenario: &Arc<Scenario>, names: &Names) -> Result<Self> {
        let link = Link::open(scenario).await?;
        if scenario.prefetch > 0 {
            let options = BasicQosOptions::default();
            link.channel.basic_qos(scenario.prefetch, options).await?;
        }
        let options = BasicConsumeOptions {
            no_ack: scenario.ack == Ack::Auto,
            ..Default::default()
        };
        let group = index % scenario.queues;
        let queue = names.queue(group);
        let consume = link.channel.basic_consume(
            queue.as_str().into(),
            "c".into(),
            options,
            FieldTable::default(),
        );
        let stream = consume.await.context("consuming")?;
        Ok(Consumer {
            link,
            stream,
            group,
            scenario: Arc::clone(scenario),
            unacked: 0,
            checks: Checks::new(group, scenario),
        })
    }

    async fn run(mut self, board: Arc<Board>) -> Result<Checks> {
        let mut look = pin!(interval(LOOK));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stall_ns = self.scenario.stall_s * 1_000_000_000;
        let mut last_tag = 0;
        let mut active_ns = board.clock.ns();
        while !board.is_drained(self.group) && !board.aborted() {
            tokio::select! {
                biased;
                delivery = self.stream.next() => {
                    let delivery = delivery.context("the consumer was ended")??;
                    last_tag = delivery.delivery_tag;
                    active_ns = board.clock.ns();
                    self.take(&delivery, active_ns, &board).await?;
                }
                _ = look.tick() => {
                    if !board.due_is_known(self.group) {
                        active_ns = board.clock.ns();
                    } else if board.clock.ns() - active_ns >= stall_ns {
                        break;
                    }
                }
            }
        }
        if self.unacked > 0 {
            let options = BasicAckOptions { multiple: true };
            self.link.channel.basic_ack(last_tag, options).await?;
        }
        self.link.close().await?;
        Ok(self.checks)
    }

    async fn take(&mut self, delivery: &Delivery, now: u64, board: &Board) -> Result<()> {
        let body = &delivery.data;
        let head = body.first_chunk::<HEAD>().copied();
        ensure!(head.is_some(), "a message of {} octets", body.len());
        let message = Message {
            tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            returned: false,
            size: body.len() as u64,
            head: head.unwrap_or_default(),
            tail: body,
            tail_offset: 0,
        };
        self.checks.take(&message, now, board);
        self.checks.last_ns = now;
        board.add_delivered(self.group, 1);
        let multiple = match self.scenario.ack {
            Ack::Auto => return Ok(()),
            Ack::Each => false,
            Ack::Multiple(n) => {
                self.unacked += 1;
                if self.unacked < n {
                    return Ok(());
                }
                self.unacked = 0;
                true
            }
        };
        let options = BasicAckOptions { multiple };
        delivery.acker.ack(options).await?;
        Ok(())
    }
}
