//! `confcast auth`: roles, rights and routes, from the table that the services decide with, and what
//! a service takes the caller for. Nothing here makes or keeps a credential.

use contract::{
    CollectionName,
    access::{
        Grant, Identity, Right, Role,
        routes::{self, Access, RouteAccess, Service},
    },
};
use serde::Serialize;

use super::explained;
use crate::{
    output::{self, Table},
    target::Target,
};

/// Show which role may do what, and who the caller is
#[derive(Debug, clap::Args)]
pub(crate) struct Auth {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuthCommand {
    Explain(Explain),
    Whoami(WhoAmI),
}

/// Print the rights of each role, and the right that each route needs; no service is asked
#[derive(Debug, clap::Args)]
struct Explain {
    /// Only this role, and the routes that it may use
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Print the name and the grants by which a service knows the caller
#[derive(Debug, clap::Args)]
struct WhoAmI {
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Auth {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            AuthCommand::Explain(command) => command.run(),
            AuthCommand::Whoami(command) => command.run().await,
        }
    }
}

/// What `explain --json` prints.
#[derive(Debug, Serialize)]
struct Explanation {
    roles: Vec<RoleRow>,
    routes: Vec<RouteRow>,
}

#[derive(Debug, Serialize)]
struct RoleRow {
    role: Role,
    rights: &'static [Right],
}

#[derive(Debug, Serialize)]
struct RouteRow {
    method: &'static str,
    path: &'static str,
    services: Vec<&'static str>,
    /// One of them is enough; none for a route that needs no right.
    rights: &'static [Right],
    /// For what the right is needed, or who may send it without one.
    scope: &'static str,
    roles: Vec<Role>,
}

impl RouteRow {
    fn of(route: &RouteAccess) -> Self {
        let (rights, scope): (&'static [Right], _) = match route.access {
            Access::Anyone => (&[], "every peer, without a credential"),
            Access::Sidecar => (&[], "the sidecar, by APP_API_TOKEN"),
            Access::Caller => (&[], "every caller that is known"),
            Access::Right(rights, scope) => (rights, scope.as_str()),
        };
        let services = route.services.iter().map(|service| match service {
            Service::Publisher => "publisher",
            Service::Subscriber => "subscriber",
        });
        let has_one = |role: &Role| rights.iter().any(|right| role.rights().contains(right));
        Self {
            method: route.method,
            path: route.path,
            services: services.collect(),
            rights,
            scope,
            roles: Role::ALL.iter().copied().filter(has_one).collect(),
        }
    }
}

impl Explanation {
    fn of(role: Option<Role>) -> Self {
        let roles = Role::ALL.iter().copied();
        let roles = roles.filter(|each| role.is_none_or(|role| role == *each));
        let rows = routes::ALL.iter().map(RouteRow::of);
        // What needs no right is no matter of a role.
        let rows = rows.filter(|row| role.is_none_or(|role| row.roles.contains(&role)));
        Self {
            roles: roles
                .map(|role| RoleRow {
                    role,
                    rights: role.rights(),
                })
                .collect(),
            routes: rows.collect(),
        }
    }

    fn roles_table(&self) -> Table {
        let mut table = output::table(["role", "rights"]);
        for RoleRow { role, rights } in &self.roles {
            table.add_row([role.to_string(), names(rights, ", ")]);
        }
        table
    }

    fn routes_table(&self) -> Table {
        let mut table = output::table(["route", "right", "for", "roles", "services"]);
        for row in &self.routes {
            table.add_row([
                format!("{} {}", row.method, row.path),
                names(row.rights, " or "),
                row.scope.to_owned(),
                names(&row.roles, ", "),
                row.services.join(", "),
            ]);
        }
        table
    }
}

fn names(values: &[impl ToString], separator: &str) -> String {
    let names: Vec<_> = values.iter().map(ToString::to_string).collect();
    names.join(separator)
}

impl Explain {
    fn run(self) -> anyhow::Result<()> {
        let explanation = Explanation::of(self.role);
        if self.json {
            return output::json(&explanation);
        }
        output::result_table(&explanation.roles_table())?;
        output::result(
            "A grant restricts a role to collections, or to ids that begin with a prefix.",
        )?;
        Ok(output::result_table(&explanation.routes_table())?)
    }
}

impl WhoAmI {
    async fn run(self) -> anyhow::Result<()> {
        let endpoint = self.target.endpoint()?;
        let identity = endpoint.identity().await;
        let identity = identity.map_err(|error| explained(&endpoint, error, "GET /v1/identity"))?;
        if self.json {
            return output::json(&identity);
        }
        for line in lines(&identity) {
            output::result(line)?;
        }
        Ok(())
    }
}

/// The identity, a line for its name and one for each grant.
fn lines(identity: &Identity) -> Vec<String> {
    let mut lines = vec![identity.name.to_string()];
    if identity.grants.is_empty() {
        lines.push("no grant: it may do nothing".to_owned());
    }
    lines.extend(identity.grants.iter().map(|grant| {
        let Grant {
            role,
            collections,
            id_prefix,
        } = grant;
        let collections = collections.as_ref().map_or_else(
            || "all collections".to_owned(),
            |named| {
                let named: Vec<_> = named.iter().map(CollectionName::as_str).collect();
                named.join(", ")
            },
        );
        let ids = id_prefix
            .as_ref()
            .map(|prefix| format!(", ids that begin with {prefix}"));
        format!("{role}: {collections}{}", ids.unwrap_or_default())
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_explained_with_the_routes_that_it_may_use_and_no_other() {
        let explained = Explanation::of(Some(Role::Monitor));
        assert_eq!(explained.roles.len(), 1);
        let paths: Vec<_> = explained
            .routes
            .iter()
            .map(|row| (row.method, row.path))
            .collect();
        assert!(paths.contains(&("GET", "/metrics")), "{paths:?}");
        assert!(!paths.iter().any(|(method, _path)| *method != "GET"));
        assert!(
            !paths.contains(&("GET", "/v1/collections/{collection}/documents/{id}")),
            "{paths:?}"
        );
    }

    #[test]
    fn all_roles_and_routes_are_explained_and_json_names_them_as_settings_do() {
        let explained = Explanation::of(None);
        assert_eq!(explained.roles.len(), Role::ALL.len());
        assert_eq!(explained.routes.len(), routes::ALL.len());
        let json = serde_json::to_value(&explained).expect("JSON");
        let heads = json["routes"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["path"] == "/v1/collections"));
        assert_eq!(
            heads.map(|row| &row["rights"]),
            Some(&serde_json::json!(["read", "observe"]))
        );
    }

    #[test]
    fn a_caller_is_shown_with_each_of_its_grants() {
        let identity: Identity = serde_json::from_str(
            r#"{"name":"token:ci","grants":[{"role":"writer","collections":["A"],"idPrefix":"t."},{"role":"reader"}]}"#,
        )
        .expect("an identity");
        assert_eq!(
            lines(&identity),
            [
                "token:ci",
                "writer: A, ids that begin with t.",
                "reader: all collections"
            ]
        );
        let nobody = Identity {
            name: "x".into(),
            grants: [].into(),
        };
        assert_eq!(lines(&nobody)[1], "no grant: it may do nothing");
    }
}
