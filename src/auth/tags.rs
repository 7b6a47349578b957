//! Tags of users: what they may do beside AMQP.

/// The tags that mean something, as a set. Others are kept with the user and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags(u8);

/// May do everything.
pub const ADMINISTRATOR: Tags = Tags(1);
/// Sees all vhosts, connections and numbers.
pub const MONITORING: Tags = Tags(1 << 1);
/// Makes policies in vhosts that it may enter.
pub const POLICYMAKER: Tags = Tags(1 << 2);
/// Sees what is in vhosts that it may enter.
pub const MANAGEMENT: Tags = Tags(1 << 3);
/// May publish in the name of other users.
pub const IMPERSONATOR: Tags = Tags(1 << 4);
/// Runs the bus: its clients and what they left. Our own: the others are RabbitMQ's, and whoever has one of those there
/// gets no more by it here.
pub const OPERATOR: Tags = Tags(1 << 5);

const NAMED: [(&str, Tags); 6] = [
    ("administrator", ADMINISTRATOR),
    ("monitoring", MONITORING),
    ("policymaker", POLICYMAKER),
    ("management", MANAGEMENT),
    ("impersonator", IMPERSONATOR),
    ("operator", OPERATOR),
];

impl Tags {
    /// The set of the names that mean something.
    pub fn of<S: AsRef<str>>(names: &[S]) -> Self {
        let known = |name: &S| NAMED.iter().find(|(known, _)| *known == name.as_ref());
        let tags = names.iter().filter_map(known);
        Self(tags.fold(0, |set, (_, tag)| set | tag.0))
    }

    /// Whether `tag` is among them.
    pub fn has(self, tag: Self) -> bool {
        self.0 & tag.0 == tag.0
    }

    /// Whether the management interface is open to it at all.
    pub fn may_manage(self) -> bool {
        self.has(MANAGEMENT) || self.may_make_policies() || self.may_monitor()
    }

    /// Whether it makes policies in vhosts that it may enter.
    pub fn may_make_policies(self) -> bool {
        self.has(POLICYMAKER) || self.has(ADMINISTRATOR)
    }

    /// Whether it sees what is in all vhosts.
    pub fn may_monitor(self) -> bool {
        self.has(MONITORING) || self.has(ADMINISTRATOR)
    }

    /// Whether it changes what is on the bus: the role `operator`.
    pub fn may_operate(self) -> bool {
        self.has(OPERATOR) || self.has(ADMINISTRATOR)
    }

    /// Whether it sees what is on the bus, and the server's numbers: the role `monitor`.
    pub fn may_watch(self) -> bool {
        self.may_monitor() || self.may_operate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_open_what_they_are_for() {
        let may = |names: &[&str]| {
            let tags = Tags::of(names);
            (
                tags.may_manage(),
                tags.may_make_policies(),
                tags.may_monitor(),
                tags.may_operate(),
                tags.may_watch(),
            )
        };
        let none = (false, false, false, false, false);
        assert_eq!(may(&[]), none);
        assert_eq!(may(&["impersonator", "other"]), none);
        assert_eq!(may(&["management"]), (true, false, false, false, false));
        assert_eq!(may(&["policymaker"]), (true, true, false, false, false));
        assert_eq!(may(&["monitoring"]), (true, false, true, false, true));
        assert_eq!(may(&["operator"]), (false, false, false, true, true));
        assert_eq!(may(&["administrator"]), (true, true, true, true, true));
        assert!(Tags::of(&["x", "impersonator"]).has(IMPERSONATOR));
    }
}
