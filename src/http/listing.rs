//! How lists are answered: filtered, sorted, in pages and in columns, as the query asks for it, in RabbitMQ's shape.
//!
//! `page`, `page_size` (100 unless said otherwise, at most 500), `name` (found anywhere, whatever the case) and `use_regex` make
//! pages; `sort` (a field, or one inside another with a dot), `sort_reverse` and `columns` work on all lists. What is not shown
//! is not made into JSON.

use std::cmp::Ordering;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Map, Value};

use super::ApiError;
use super::body::form_pairs;
use super::management::bad_request;
use crate::engine::Pattern;

/// Items of a page unless the query says otherwise.
const PAGE_SIZE: usize = 100;
/// The most items of a page.
const PAGE_SIZE_MAX: usize = 500;

/// Something that pages are made of.
pub(super) trait Listed: Serialize {
    /// What `name` looks for.
    fn name(&self) -> &str;
}

/// What a query asks of a list.
#[derive(Debug, Default)]
pub(super) struct Listing {
    page: Option<Page>,
    sort: Option<Vec<String>>,
    reverse: bool,
    columns: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Page {
    number: usize,
    size: usize,
    name: Name,
}

#[derive(Debug)]
enum Name {
    Any,
    /// In lower case.
    Part(String),
    Fits(Pattern),
}

/// A page of a list.
#[derive(Serialize)]
struct Envelope {
    filtered_count: usize,
    item_count: usize,
    items: Vec<Value>,
    page: usize,
    page_count: usize,
    page_size: usize,
    total_count: usize,
}

impl Listing {
    /// Reads the query.
    ///
    /// # Errors
    /// 400: the page cannot be one.
    pub fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let pairs = form_pairs(request.query_string());
        let get = |name: &str| {
            let pair = pairs.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_str())
                .filter(|it| !it.is_empty())
        };
        let is = |name| get(name) == Some("true");
        let columns = get("columns").unwrap_or_default().split(',');
        Ok(Self {
            page: match get("page") {
                Some(number) => Some(Page::of(
                    number,
                    get("page_size"),
                    get("name"),
                    is("use_regex"),
                )?),
                None => None,
            },
            sort: get("sort").map(path),
            reverse: is("sort_reverse"),
            columns: columns.filter(|it| !it.is_empty()).map(path).collect(),
        })
    }

    /// Answers with items of which there may be many: all, or a page of them.
    pub fn answer<T: Listed>(&self, mut items: Vec<T>) -> Result<HttpResponse, ApiError> {
        let Some(page) = &self.page else {
            return Ok(self.all(items));
        };
        let total_count = items.len();
        items.retain(|item| page.name.fits(item.name()));
        let filtered_count = items.len();
        self.order(&mut items);
        let page_count = filtered_count.div_ceil(page.size);
        if page.number > page_count.max(1) {
            let reason = format!(
                "Page out of range, page: {} page size: {}, len: {filtered_count}",
                page.number, page.size
            );
            return Err(refused("page_out_of_range", reason));
        }
        let from = (page.number - 1) * page.size;
        let shown = items.iter().skip(from).take(page.size);
        let items: Vec<Value> = shown.map(|item| self.shown(item)).collect();
        Ok(HttpResponse::Ok().json(Envelope {
            filtered_count,
            item_count: items.len(),
            items,
            page: page.number,
            page_count,
            page_size: page.size,
            total_count,
        }))
    }

    /// Answers with all items, sorted and in columns: lists of these are in pages nowhere.
    pub fn all<T: Serialize>(&self, mut items: Vec<T>) -> HttpResponse {
        self.order(&mut items);
        match self.columns[..] {
            [] => HttpResponse::Ok().json(items),
            _ => HttpResponse::Ok().json(items.iter().map(|it| self.shown(it)).collect::<Vec<_>>()),
        }
    }

    /// Answers with one item.
    pub fn one<T: Serialize>(&self, item: &T) -> HttpResponse {
        HttpResponse::Ok().json(self.shown(item))
    }

    fn shown<T: Serialize>(&self, item: &T) -> Value {
        let whole = serde_json::to_value(item).unwrap_or_default();
        if self.columns.is_empty() {
            return whole;
        }
        let mut shown = Map::new();
        for column in &self.columns {
            copy(&whole, column, &mut shown);
        }
        shown.into()
    }

    fn order<T: Serialize>(&self, items: &mut Vec<T>) {
        let Some(sort) = &self.sort else {
            if self.reverse {
                items.reverse();
            }
            return;
        };
        let mut keyed: Vec<(Value, T)> = std::mem::take(items)
            .into_iter()
            .map(|item| (key_of(&item, sort), item))
            .collect();
        keyed.sort_by(|(a, _), (b, _)| compare(a, b));
        if self.reverse {
            keyed.reverse();
        }
        items.extend(keyed.into_iter().map(|(_, item)| item));
    }
}

impl Page {
    fn of(
        number: &str,
        size: Option<&str>,
        name: Option<&str>,
        use_regex: bool,
    ) -> Result<Self, ApiError> {
        let invalid = || bad_request("Pagination parameters are invalid");
        let parse = |text: &str| text.parse::<usize>().map_err(|_| invalid());
        let number = parse(number)?;
        let asked = size.map(parse).transpose()?;
        let size = asked.unwrap_or(PAGE_SIZE);
        if number == 0 || size == 0 || size > PAGE_SIZE_MAX {
            let asked = asked.map_or_else(|| "undefined".to_owned(), |size| size.to_string());
            let reason =
                format!("Invalid pagination parameters: page number {number}, page size {asked}");
            return Err(refused("invalid_pagination_parameters", reason));
        }
        let name = match (name, use_regex) {
            (None, _) => Name::Any,
            (Some(part), false) => Name::Part(part.to_lowercase()),
            (Some(pattern), true) => {
                let caseless = format!("(?i){pattern}");
                Name::Fits(Pattern::new(&caseless).map_err(|_| invalid())?)
            }
        };
        // Past the end of any list, without overflow.
        let number = number.min(u32::MAX as usize);
        Ok(Self { number, size, name })
    }
}

impl Name {
    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Part(part) => name.to_lowercase().contains(part.as_str()),
            Self::Fits(pattern) => pattern.matches(name.as_bytes()),
        }
    }
}

fn refused(error: &str, reason: String) -> ApiError {
    ApiError::management(StatusCode::BAD_REQUEST, error, reason)
}

/// The names from the outermost field to the innermost.
fn path(dotted: &str) -> Vec<String> {
    dotted.split('.').map(str::to_owned).collect()
}

fn find<'a>(whole: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(whole, |inside, name| inside.get(name))
}

fn key_of<T: Serialize>(item: &T, path: &[String]) -> Value {
    let whole = serde_json::to_value(item).unwrap_or_default();
    find(&whole, path).cloned().unwrap_or_default()
}

/// Copies one column, with the names around it.
fn copy(whole: &Value, path: &[String], into: &mut Map<String, Value>) {
    let (Some((last, around)), Some(value)) = (path.split_last(), find(whole, path)) else {
        return;
    };
    let mut into = into;
    for name in around {
        let inner = into.entry(name).or_insert_with(|| Map::new().into());
        let Value::Object(inner) = inner else { return };
        into = inner;
    }
    into.insert(last.clone(), value.clone());
}

/// Numbers before texts, and before all what is not there.
fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Number(_) => 1,
            Value::Bool(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) | Value::Object(_) => 4,
        }
    }
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64(), y.as_f64());
            x.partial_cmp(&y).unwrap_or(Ordering::Equal)
        }
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::String(x), Value::String(y)) => x.cmp(y),
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Item {
        name: String,
        count: Option<u64>,
        inner: Value,
    }

    impl Listed for Item {
        fn name(&self) -> &str {
            &self.name
        }
    }

    /// `A-0` to `A-6`, and `b`.
    fn items() -> Vec<Item> {
        let named = (0..7).map(|n| (format!("A-{n}"), Some(10 - n)));
        let all = named.chain([("b".to_owned(), None)]);
        let item = |(name, count)| Item {
            name,
            count,
            inner: json!({"x": count, "y": 1}),
        };
        all.map(item).collect()
    }

    async fn ask(query: &str) -> Value {
        let request = TestRequest::with_uri(&format!("/?{query}")).to_http_request();
        let answer = Listing::of(&request).and_then(|it| it.answer(items()));
        let answer = answer.unwrap_or_else(|error| {
            use actix_web::ResponseError;
            error.error_response()
        });
        let body = to_bytes(answer.into_body()).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn names(answer: &Value) -> Vec<&str> {
        let items = answer.as_array().or_else(|| answer["items"].as_array());
        let items = items.unwrap().iter();
        items.map(|it| it["name"].as_str().unwrap()).collect()
    }

    #[actix_web::test]
    async fn a_page_tells_where_it_stands() {
        let page = ask("page=2&page_size=3&name=a-&columns=name").await;
        let expected = json!({
            "filtered_count": 7, "item_count": 3, "page": 2, "page_count": 3, "page_size": 3, "total_count": 8,
            "items": [{"name": "A-3"}, {"name": "A-4"}, {"name": "A-5"}],
        });
        assert_eq!(page, expected);
        let empty = ask("page=1&name=none").await;
        assert_eq!(
            (&empty["page_count"], &empty["page_size"]),
            (&json!(0), &json!(100))
        );
        assert_eq!(
            names(&ask("page=1&name=%5Ea-[01]$&use_regex=true").await),
            ["A-0", "A-1"]
        );
        assert_eq!(
            names(&ask("name=b").await).len(),
            8,
            "names are looked for in pages"
        );
    }

    #[actix_web::test]
    async fn what_cannot_be_a_page_is_refused_in_the_words_of_rabbitmq() {
        for (query, error, reason) in [
            (
                "page=9&page_size=5",
                "page_out_of_range",
                "Page out of range, page: 9 page size: 5, len: 8",
            ),
            (
                "page=0",
                "invalid_pagination_parameters",
                "Invalid pagination parameters: page number 0, page size undefined",
            ),
            (
                "page=1&page_size=501",
                "invalid_pagination_parameters",
                "Invalid pagination parameters: page number 1, page size 501",
            ),
            ("page=x", "bad_request", "Pagination parameters are invalid"),
            (
                "page=1&name=(&use_regex=true",
                "bad_request",
                "Pagination parameters are invalid",
            ),
        ] {
            let answer = ask(query).await;
            assert_eq!(
                (&answer["error"], &answer["reason"]),
                (&json!(error), &json!(reason))
            );
        }
    }

    #[actix_web::test]
    async fn lists_are_sorted_by_any_field_and_shown_in_columns() {
        let sorted = ask("sort=count&columns=name,inner.x,none").await;
        assert_eq!(names(&sorted)[..2], ["b", "A-6"]);
        assert_eq!(sorted[1], json!({"name": "A-6", "inner": {"x": 4}}));
        let reversed = ask("page=1&page_size=2&sort=inner.x&sort_reverse=true").await;
        assert_eq!(names(&reversed), ["A-0", "A-1"]);
    }
}
