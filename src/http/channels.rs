//! `/api/channels` and `/api/consumers`: what connections have open, in the shape of RabbitMQ's management interface.
//!
//! As in [`super::connections`], each connection is asked when a page wants to know.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::connections::{named, seen};
use super::listing::{Listed, Listing};
use super::management::{Manager, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::amqp::{About, Activity, ChannelReport, ConsumerReport};
use crate::engine::object_of;
use crate::runtime::node_name;

/// A channel.
#[derive(Serialize, ToSchema)]
pub struct ChannelBody {
    /// The connection's name and the channel's number.
    name: String,
    number: u16,
    user: String,
    #[schema(value_type = String)]
    vhost: Arc<str>,
    node: &'static str,
    /// `running`.
    state: &'static str,
    connection_details: ConnectionDetails,
    consumer_count: usize,
    /// It has publisher confirms.
    confirm: bool,
    transactional: bool,
    messages_unacknowledged: u64,
    messages_unconfirmed: u64,
    messages_uncommitted: u64,
    acks_uncommitted: u64,
    /// For consumers that it starts from now on; 0: no limit.
    prefetch_count: u32,
    /// For all of its consumers together; 0: no limit.
    global_prefetch_count: u32,
    /// In the page of one channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer_details: Option<Vec<ConsumerBody>>,
}

/// The connection of a channel, or that an exclusive queue belongs to.
#[derive(Serialize, ToSchema)]
pub(super) struct ConnectionDetails {
    name: String,
    peer_host: String,
    peer_port: u16,
}

/// A consumer.
#[derive(Serialize, ToSchema)]
pub struct ConsumerBody {
    consumer_tag: String,
    queue: QueueName,
    channel_details: ChannelDetails,
    ack_required: bool,
    exclusive: bool,
    /// 0: no limit.
    prefetch_count: u32,
    /// It gets messages now.
    active: bool,
    /// `up`, or with a single active consumer `single_active` or `waiting`.
    activity_status: &'static str,
    /// What it came with.
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
}

/// The queue of a consumer.
#[derive(Serialize, ToSchema)]
struct QueueName {
    #[schema(value_type = String)]
    name: Arc<str>,
    #[schema(value_type = String)]
    vhost: Arc<str>,
}

/// The channel of a consumer.
#[derive(Serialize, ToSchema)]
struct ChannelDetails {
    name: String,
    number: u16,
    connection_name: String,
    peer_host: String,
    peer_port: u16,
    user: String,
    node: &'static str,
}

fn channel_name(about: &About, number: u16) -> String {
    format!("{} ({number})", about.name())
}

impl ConnectionDetails {
    pub fn of(about: &About) -> Self {
        Self {
            name: about.name(),
            peer_host: about.ends.peer_host(),
            peer_port: about.ends.peer_port(),
        }
    }
}

impl ChannelBody {
    fn of(about: &About, report: &ChannelReport) -> Self {
        Self {
            name: channel_name(about, report.number),
            number: report.number,
            user: about.user.to_string(),
            vhost: Arc::clone(&about.vhost),
            node: node_name(),
            state: "running",
            connection_details: ConnectionDetails::of(about),
            consumer_count: report.consumers.len(),
            confirm: report.confirm,
            transactional: report.transactional,
            messages_unacknowledged: report.unacked,
            messages_unconfirmed: report.unconfirmed,
            messages_uncommitted: report.uncommitted,
            acks_uncommitted: report.acks_uncommitted,
            prefetch_count: report.prefetch,
            global_prefetch_count: report.global_prefetch,
            consumer_details: None,
        }
    }
}

impl ConsumerBody {
    fn of(about: &About, channel: u16, report: &ConsumerReport) -> Self {
        let (active, activity_status) = match report.activity {
            Activity::Shared => (true, "up"),
            Activity::Alone => (true, "single_active"),
            Activity::Waiting => (false, "waiting"),
        };
        Self {
            consumer_tag: report.tag.clone(),
            queue: QueueName {
                name: Arc::clone(&report.queue),
                vhost: Arc::clone(&about.vhost),
            },
            channel_details: ChannelDetails {
                name: channel_name(about, channel),
                number: channel,
                connection_name: about.name(),
                peer_host: about.ends.peer_host(),
                peer_port: about.ends.peer_port(),
                user: about.user.to_string(),
                node: node_name(),
            },
            ack_required: report.ack_required,
            exclusive: report.exclusive,
            prefetch_count: report.prefetch,
            active,
            activity_status,
            arguments: object_of(&report.arguments),
        }
    }

    fn all(about: &About, channel: &ChannelReport) -> impl Iterator<Item = Self> {
        let consumers = channel.consumers.iter();
        consumers.map(|it| Self::of(about, channel.number, it))
    }
}

impl Listed for ChannelBody {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/channels").route(web::get().to(list_all)))
        .service(web::resource("/api/channels/{name}").route(web::get().to(show)))
        .service(
            web::resource("/api/connections/{name}/channels").route(web::get().to(of_connection)),
        )
        .service(web::resource("/api/vhosts/{vhost}/channels").route(web::get().to(of_vhost)))
        .service(web::resource("/api/consumers").route(web::get().to(list_consumers)))
        .service(web::resource("/api/consumers/{vhost}").route(web::get().to(consumers_of_vhost)));
}

/// All channels of these connections, made into something.
async fn channels<T>(
    services: &Services,
    list: &[Arc<About>],
    mut make: impl FnMut(&About, &ChannelReport, &mut Vec<T>),
) -> Vec<T> {
    let reports = services.connections.ask(list).await;
    let mut made = Vec::new();
    for (about, report) in list.iter().zip(&reports) {
        for channel in report.iter().flat_map(|it| &it.channels) {
            make(about, channel, &mut made);
        }
    }
    made
}

async fn listed(
    services: &Services,
    request: &HttpRequest,
    list: &[Arc<About>],
) -> Result<HttpResponse, ApiError> {
    let listing = Listing::of(request)?;
    let all = channels(services, list, |about, channel, made| {
        made.push(ChannelBody::of(about, channel));
    });
    listing.answer(all.await)
}

/// The channels of the connections that the caller sees; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/channels", tag = "connections", security(("basic" = [])),
    responses((status = 200, body = Vec<ChannelBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let list = seen(&services, &manager, |_| true);
    listed(&services, &request, &list).await
}

/// The channels of a vhost's connections.
#[utoipa::path(get, path = "/api/vhosts/{vhost}/channels", tag = "connections", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<ChannelBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let list = seen(&services, &manager, |it| *it.vhost == **vhost);
    listed(&services, &request, &list).await
}

/// The channels of a connection.
#[utoipa::path(get, path = "/api/connections/{name}/channels", tag = "connections", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<ChannelBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_connection(
    services: web::Data<Services>,
    request: HttpRequest,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let about = named(&services, &manager, &name)?;
    listed(&services, &request, &[about]).await
}

/// One channel, with its consumers.
#[utoipa::path(get, path = "/api/channels/{name}", tag = "connections", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 200, body = ChannelBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    request: HttpRequest,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let connection = name.rsplit_once(" (").map_or(name.as_str(), |(it, _)| it);
    let about = named(&services, &manager, connection)?;
    let mut all = channels(&services, &[about], |about, channel, made| {
        if channel_name(about, channel.number) == *name {
            made.push(ChannelBody {
                consumer_details: Some(ConsumerBody::all(about, channel).collect()),
                ..ChannelBody::of(about, channel)
            });
        }
    })
    .await;
    let body = all.pop().ok_or_else(not_found)?;
    Ok(Listing::of(&request)?.one(&body))
}

/// The consumers of the vhosts that the caller sees that are `wanted`.
pub(super) async fn consumers(
    services: &Services,
    wanted: impl Fn(&About) -> bool,
) -> Vec<ConsumerBody> {
    let mut list = services.connections.list();
    list.retain(|it| wanted(it));
    let all = channels(services, &list, |about, channel, made| {
        made.extend(ConsumerBody::all(about, channel));
    });
    all.await
}

/// Those of a queue.
pub(super) async fn consumers_of_queue(
    services: &Services,
    vhost: &str,
    queue: &str,
) -> Vec<ConsumerBody> {
    let mut all = consumers(services, |it| *it.vhost == *vhost).await;
    all.retain(|it| *it.queue.name == *queue);
    all
}

/// The consumers in the vhosts that the caller sees, whoever's they are; the bus's own are not among them.
#[utoipa::path(get, path = "/api/consumers", tag = "connections", security(("basic" = [])),
    responses((status = 200, body = Vec<ConsumerBody>), (status = 401, body = ErrorBody)))]
async fn list_consumers(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let listing = Listing::of(&request)?;
    let all = consumers(&services, |it| manager.sees(&services, &it.vhost));
    Ok(listing.all(all.await))
}

/// The consumers of a vhost.
#[utoipa::path(get, path = "/api/consumers/{vhost}", tag = "connections", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<ConsumerBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn consumers_of_vhost(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let listing = Listing::of(&request)?;
    let all = consumers(&services, |it| *it.vhost == **vhost);
    Ok(listing.all(all.await))
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_all,
    of_vhost,
    of_connection,
    show,
    list_consumers,
    consumers_of_vhost
))]
pub(super) struct Api;
