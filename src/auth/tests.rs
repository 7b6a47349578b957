//! Logins of users and clients, and how changes of them count.

use super::*;
use crate::state::Table;

const HERE: Peer = Peer {
    address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    is_local: true,
};
const ELSEWHERE: Peer = Peer {
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    is_local: false,
};

async fn open(config: &Config, dir: &std::path::Path) -> (Authenticator, Option<Secret>) {
    let state = StateStore::open(dir).unwrap();
    Authenticator::open(config, &state, Arc::default())
        .await
        .unwrap()
}

#[actix_web::test]
async fn admin_secret_is_made_once_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let (_, made) = open(&config, dir.path()).await;
    let secret = made.unwrap();
    let (auth, again) = open(&config, dir.path()).await;
    assert!(again.is_none());
    let identity = auth
        .login("admin", secret.expose().as_bytes(), ELSEWHERE)
        .await
        .unwrap();
    assert!(identity.is_administrator() && &*identity.name == "admin");
    assert_eq!(auth.login("admin", b"wrong", HERE).await, Err(Denied));
}

#[actix_web::test]
async fn a_configured_admin_secret_wins_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (_, made) = open(&Config::default(), dir.path()).await;
    let mut config = Config::default();
    config.admin.secret = Secret::new("mine");
    let (auth, shown) = open(&config, dir.path()).await;
    assert!(shown.is_none());
    assert!(auth.login("admin", b"mine", ELSEWHERE).await.is_ok());
    assert_eq!(
        auth.login("admin", made.unwrap().expose().as_bytes(), ELSEWHERE)
            .await,
        Err(Denied)
    );
}

#[actix_web::test]
async fn guest_works_from_loopback_only_and_can_be_turned_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    let (auth, _) = open(&config, dir.path()).await;
    assert!(
        auth.login("guest", b"guest", HERE)
            .await
            .unwrap()
            .is_administrator()
    );
    assert_eq!(auth.login("guest", b"guest", ELSEWHERE).await, Err(Denied));
    drop(auth);
    config.guest.enabled = false;
    let (auth, _) = open(&config, dir.path()).await;
    assert_eq!(auth.login("guest", b"guest", HERE).await, Err(Denied));
    assert!(auth.is_reserved("guest") && auth.is_reserved("admin") && !auth.is_reserved("noc"));
}

#[actix_web::test]
async fn a_guest_that_was_deleted_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let (auth, _) = open(&config, dir.path()).await;
    let gone = auth.users().delete(&["guest".to_owned()]).await.unwrap();
    assert_eq!(gone, None);
    drop(auth);
    let (auth, _) = open(&config, dir.path()).await;
    assert_eq!(auth.login("guest", b"guest", HERE).await, Err(Denied));
    assert_eq!(auth.users().grant("guest", "/"), None);
}

async fn put(auth: &Authenticator, name: &str, password: PasswordHash, tags: &[&str]) -> bool {
    let update = UserUpdate {
        password: Some(Some(password)),
        tags: Some(tags.iter().map(|it| (*it).to_owned()).collect()),
        limits: None,
    };
    auth.users().put(name, update).await.unwrap()
}

#[actix_web::test]
async fn users_log_in_with_what_they_chose_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let (auth, _) = open(&config, dir.path()).await;
    assert!(put(&auth, "u", PasswordHash::of(b"p"), &["management", "own"]).await);
    // The second time it is remembered.
    for _ in 0..2 {
        let identity = auth.login("u", b"p", ELSEWHERE).await.unwrap();
        assert!(identity.tags().may_manage() && !identity.is_administrator());
        assert_eq!(auth.login("u", b"q", ELSEWHERE).await, Err(Denied));
    }
    assert!(!put(&auth, "u", PasswordHash::of(b"q"), &[]).await);
    assert_eq!(auth.login("u", b"p", ELSEWHERE).await, Err(Denied));
    drop(auth);
    let (auth, _) = open(&config, dir.path()).await;
    assert!(auth.login("u", b"q", ELSEWHERE).await.is_ok());
    let none = UserUpdate {
        password: Some(None),
        ..UserUpdate::default()
    };
    auth.users().put("u", none).await.unwrap();
    assert_eq!(auth.login("u", b"q", ELSEWHERE).await, Err(Denied));
}

#[actix_web::test]
async fn who_fails_too_often_is_refused_even_with_the_right_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.admin.secret = Secret::new("mine");
    config.limits.failed_logins_per_minute = 3;
    let (auth, _) = open(&config, dir.path()).await;
    for _ in 0..3 {
        assert!(auth.login("admin", b"mine", ELSEWHERE).await.is_ok());
        assert!(auth.login("admin", b"no", ELSEWHERE).await.is_err());
    }
    assert_eq!(auth.login("admin", b"mine", ELSEWHERE).await, Err(Denied));
    assert!(auth.login("admin", b"mine", HERE).await.is_ok());
}

#[actix_web::test]
async fn grants_open_vhosts_survive_and_go_with_user_and_vhost() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let (auth, _) = open(&config, dir.path()).await;
    put(&auth, "u", PasswordHash::of(b"p"), &[]).await;
    let identity = auth.login("u", b"p", HERE).await.unwrap();
    assert!(auth.access(&identity, "v").is_none());
    let users = auth.users();
    assert!(users.permit("u", "v", Permission::full()).await.unwrap());
    assert!(users.permit("u", "w", Permission::full()).await.unwrap());
    assert!(!users.permit("u", "w", Permission::full()).await.unwrap());
    let bad = Permission {
        read: "(".into(),
        ..Permission::full()
    };
    let refused = users.permit("u", "v", bad).await;
    assert!(matches!(refused, Err(UserError::Pattern(..))));
    let missing = users.permit("x", "v", Permission::full()).await;
    assert!(matches!(missing, Err(UserError::NoUser(_))));
    drop(auth);
    let (auth, _) = open(&config, dir.path()).await;
    let users = auth.users();
    let access = auth.access(&identity, "v").unwrap();
    assert!(access.consume("u", "v", "q").is_ok());
    users.keep_vhosts(|vhost| vhost != "v").await.unwrap();
    assert!(access.consume("u", "v", "q").is_err());
    assert!(auth.access(&identity, "v").is_none() && auth.access(&identity, "w").is_some());
    let both = ["u".to_owned(), "x".to_owned()];
    assert_eq!(users.delete(&both).await.unwrap().as_deref(), Some("x"));
    assert!(users.may_enter("u", "w"), "all or none");
    assert_eq!(users.delete(&both[..1]).await.unwrap(), None);
    put(&auth, "u", PasswordHash::of(b"p"), &[]).await;
    assert!(!users.may_enter("u", "w"));
}

#[actix_web::test]
async fn the_configured_administrator_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.admin.secret = Secret::new("mine");
    let (auth, _) = open(&config, dir.path()).await;
    let admin = ["admin".to_owned()];
    assert!(auth.users().delete(&admin).await.is_err());
    for update in [
        UserUpdate {
            tags: Some(Vec::new()),
            ..UserUpdate::default()
        },
        UserUpdate {
            password: Some(None),
            ..UserUpdate::default()
        },
    ] {
        let refused = auth.users().put("admin", update).await;
        assert!(matches!(refused, Err(UserError::Configured(..))));
    }
    assert!(auth.users().may_enter("admin", "/"));
}

#[actix_web::test]
async fn clients_are_loaded_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (generate_secret(), generate_secret());
    let state = StateStore::open(dir.path()).unwrap();
    let record =
        serde_json::json!({"client_id": "noc", "secret_hash": SecretHash::of(&old), "more": 1});
    state.put(Table::Clients, "noc", &record).await.unwrap();
    let (auth, _) = Authenticator::open(&Config::default(), &state, Arc::default())
        .await
        .unwrap();
    let identity = auth
        .login("noc", old.expose().as_bytes(), ELSEWHERE)
        .await
        .unwrap();
    assert_eq!(
        (&*identity.name, identity.kind),
        ("noc", IdentityKind::Client)
    );
    auth.put_client("noc", &ClientLogin::with(SecretHash::of(&new)));
    assert_eq!(
        auth.login("noc", old.expose().as_bytes(), ELSEWHERE).await,
        Err(Denied)
    );
    assert!(
        auth.login("noc", new.expose().as_bytes(), ELSEWHERE)
            .await
            .is_ok()
    );
    auth.remove_client("noc");
    assert_eq!(
        auth.login("noc", new.expose().as_bytes(), ELSEWHERE).await,
        Err(Denied)
    );
}

#[test]
fn mapped_loopback_counts() {
    assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!is_loopback("::ffff:10.0.0.1".parse().unwrap()));
}

/// What a token that `identity` gets now is good for.
fn token(auth: &Authenticator, identity: &Identity) -> String {
    auth.make_token(identity).unwrap().text.expose().to_owned()
}

#[actix_web::test]
async fn a_token_lives_as_long_as_the_secret_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, _) = open(&Config::default(), dir.path()).await;
    let secret = generate_secret();
    let hash = SecretHash::of(&secret);
    auth.put_client("noc", &ClientLogin::with(hash.clone()));
    let noc = auth.login("noc", secret.expose().as_bytes(), ELSEWHERE);
    let noc = noc.await.unwrap();
    let of_client = token(&auth, &noc);
    assert_eq!(auth.login_token(&of_client, ELSEWHERE), Ok(noc));
    auth.put_client("noc", &ClientLogin::with(SecretHash::of(&secret)));
    let revoked = Err(TokenError::Revoked);
    assert_eq!(auth.login_token(&of_client, HERE), revoked, "another hash");
    auth.put_client("noc", &ClientLogin::with(hash));
    assert!(auth.login_token(&of_client, HERE).is_ok());
    auth.remove_client("noc");
    assert_eq!(auth.login_token(&of_client, HERE), revoked);

    put(&auth, "u", PasswordHash::of(b"p"), &["monitoring"]).await;
    let user = auth.login("u", b"p", ELSEWHERE).await.unwrap();
    let of_user = token(&auth, &user);
    let update = UserUpdate {
        tags: Some(vec!["administrator".into()]),
        ..UserUpdate::default()
    };
    auth.users().put("u", update).await.unwrap();
    let user = auth.login_token(&of_user, ELSEWHERE).unwrap();
    assert!(user.is_administrator(), "its tags are those of now");
    assert!(!put(&auth, "u", PasswordHash::of(b"p"), &[]).await);
    assert_eq!(auth.login_token(&of_user, HERE), revoked);
    auth.users().delete(&["u".to_owned()]).await.unwrap();
    assert_eq!(auth.login_token(&of_user, HERE), revoked);
}

#[actix_web::test]
async fn nobody_inherits_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, _) = open(&Config::default(), dir.path()).await;
    let hash = SecretHash::of(&Secret::new("p"));
    put(&auth, "x", PasswordHash::Machine(hash.clone()), &[]).await;
    let of_user = token(&auth, &auth.login("x", b"p", HERE).await.unwrap());
    auth.users().delete(&["x".to_owned()]).await.unwrap();
    auth.put_client("x", &ClientLogin::with(hash));
    assert_eq!(
        auth.login_token(&of_user, HERE),
        Err(TokenError::Revoked),
        "a client of the same name is another"
    );
}

#[actix_web::test]
async fn guests_token_is_as_local_as_guest() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, _) = open(&Config::default(), dir.path()).await;
    let guest = auth.login("guest", b"guest", HERE).await.unwrap();
    let token = token(&auth, &guest);
    assert_eq!(auth.login_token(&token, HERE), Ok(guest));
    assert_eq!(
        auth.login_token(&token, ELSEWHERE),
        Err(TokenError::Elsewhere)
    );
}

#[actix_web::test]
async fn tokens_outlive_a_restart_but_not_another_key_or_configured_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.admin.secret = Secret::new("mine");
    let (auth, _) = open(&config, dir.path()).await;
    let made = token(&auth, &auth.login("admin", b"mine", HERE).await.unwrap());
    drop(auth);
    let (auth, _) = open(&config, dir.path()).await;
    assert!(auth.login_token(&made, HERE).is_ok());
    drop(auth);
    config.admin.secret = Secret::new("other");
    let (auth, _) = open(&config, dir.path()).await;
    assert_eq!(auth.login_token(&made, HERE), Err(TokenError::Revoked));
    drop(auth);
    config.token.secret = Secret::new("key");
    let (auth, _) = open(&config, dir.path()).await;
    assert_eq!(auth.login_token(&made, HERE), Err(TokenError::Malformed));
}

#[actix_web::test]
async fn a_certificate_makes_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, _) = open(&Config::default(), dir.path()).await;
    let admin = auth.login_certified("admin", HERE).unwrap();
    assert!(auth.make_token(&admin).is_none());
}

#[actix_web::test]
async fn a_disabled_client_is_as_unknown_as_nobody_until_it_is_enabled() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, _) = open(&Config::default(), dir.path()).await;
    let secret = generate_secret();
    let mut login = ClientLogin::with(SecretHash::of(&secret));
    auth.put_client("noc", &login);
    let enter = || auth.login("noc", secret.expose().as_bytes(), HERE);
    let noc = enter().await.unwrap();
    let of_client = token(&auth, &noc);
    login.disabled = true;
    auth.put_client("noc", &login);
    assert_eq!(enter().await, Err(Denied));
    assert_eq!(auth.login_certified("noc", HERE), Err(Denied));
    assert_eq!(auth.login_token(&of_client, HERE), Err(TokenError::Revoked));
    assert!(!auth.client_counts("noc", noc.secret) && !auth.client_counts("noc", None));
    assert!(auth.is_client("noc"), "nobody else gets its name");
    login.disabled = false;
    auth.put_client("noc", &login);
    assert!(enter().await.is_ok() && auth.login_certified("noc", HERE).is_ok());
    assert!(auth.login_token(&of_client, HERE).is_ok());
}
