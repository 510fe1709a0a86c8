//! Projects: whose rows are whose, who may enter which, and what they share.

use api::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{Answer, FLUX_MODULE, TestServer, checkpoint, lora, text};

/// A server that asks for keys, with a key that may do everything.
pub(crate) struct Site {
    pub server: TestServer,
    pub admin: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let open = TestServer::with_checkpoint().await;
        let server = open.another(Access::keys(open.pools.api.clone())).await;
        let admin = text(&server.post("/v1/keys", &json!({"name": "first"})).await.expect(201)["key"]);
        Self { server, admin }
    }

    pub(crate) async fn send(
        &self,
        key: &str,
        project: Option<&str>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let mut request = self.server.request(method, path).bearer_auth(key);
        if let Some(project) = project {
            request = request.header("pyrograph-project", project);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.server.send(request).await
    }

    pub(crate) async fn get(&self, key: &str, project: Option<&str>, path: &str) -> Answer {
        self.send(key, project, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, key: &str, project: Option<&str>, path: &str, body: &Value) -> Answer {
        self.send(key, project, Method::POST, path, Some(body)).await
    }

    /// A key of the project, with the usual scopes.
    pub(crate) async fn key_of(&self, project: &str) -> String {
        let made = self.post(&self.admin, Some(project), "/v1/keys", &json!({"name": project})).await.expect(201);
        text(&made["key"])
    }
}

#[tokio::test]
async fn a_key_of_the_administrator_works_in_every_project() {
    let site = Site::new().await;
    let (admin, nobody) = (site.admin.as_str(), None);
    let made = site.post(admin, nobody, "/v1/projects", &json!({"name": "shop"})).await;
    assert_eq!(made.header("location"), "/v1/projects/shop");
    let id = text(&made.expect(201)["id"]);
    let listed = site.get(admin, nobody, "/v1/projects").await.expect(200);
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|project| text(&project["name"])).collect();
    assert_eq!(names, ["shop", "default"]);
    assert_eq!(site.get(admin, nobody, "/v1/projects/shop").await.expect(200)["id"], id.as_str());

    let shop = site.key_of("shop").await;
    let dataset = site.post(&shop, nobody, "/v1/datasets", &json!({"name": "dogs"})).await.expect(201);
    let path = format!("/v1/datasets/{}", text(&dataset["id"]));
    site.get(&shop, nobody, &path).await.expect(200);
    site.get(&shop, Some("shop"), &path).await.expect(200);
    site.get(admin, nobody, &path).await.refuses(404, "");
    site.get(admin, Some("shop"), &path).await.expect(200);
    site.get(admin, Some(&id), &path).await.expect(200);
    site.get(admin, nobody, &format!("{path}?project=shop")).await.expect(200);
    let listed = site.get(admin, nobody, "/v1/datasets?limit=1&project=shop").await.expect(200);
    assert_eq!(listed["items"][0]["id"], dataset["id"]);

    for other in ["default", "nowhere"] {
        site.get(&shop, Some(other), &path).await.refuses(403, "");
        site.get(&shop, nobody, &format!("{path}?project={other}")).await.refuses(403, "");
    }
    site.get(admin, Some("nowhere"), &path).await.refuses(404, "");
    for wrong in ["", "%00"] {
        site.get(admin, nobody, &format!("{path}?project={wrong}")).await.refuses(400, "project");
    }
    site.get(admin, Some("default"), &format!("{path}?project=shop")).await.refuses(400, "Pyrograph-Project");
    for path in ["/v1/projects", "/v1/keys"] {
        site.get(&shop, nobody, path).await.refuses(403, "");
    }
}

#[tokio::test]
async fn projects_that_make_no_sense() {
    let site = Site::new().await;
    let long = "a".repeat(64);
    for name in ["", "Shop", "-a", "a b", "a/b", "é", &long, "01930000-0000-7000-8000-000000000000", "a\u{0}"] {
        site.post(&site.admin, None, "/v1/projects", &json!({"name": name})).await.refuses(422, "name");
    }
    for (field, body) in
        [("name", json!({})), ("name", json!({"name": 1})), ("quota", json!({"name": "a", "quota": 1}))]
    {
        site.post(&site.admin, None, "/v1/projects", &body).await.refuses(422, field);
    }
    site.post(&site.admin, None, "/v1/projects", &json!({"name": "x".repeat(1 << 20)})).await.refuses(413, "");
    site.post(&site.admin, None, "/v1/projects", &json!({"name": "default"})).await.refuses(409, "name");
    assert_eq!(site.server.count("projects").await, 1);
}

#[tokio::test]
async fn a_shared_model_is_used_by_every_project() {
    let site = Site::new().await;
    site.post(&site.admin, None, "/v1/projects", &json!({"name": "shop"})).await.expect(201);
    let shop = site.key_of("shop").await;
    let ember = text(&site.get(&site.admin, None, "/v1/models/ember").await.expect(200)["id"]);
    let generation = json!({"prompt": "a fox", "model": "ember"});
    site.post(&shop, None, "/v1/generations", &generation).await.refuses(404, "model");
    site.get(&shop, None, "/v1/models/ember").await.refuses(404, "");

    let share = async |shared: bool| {
        site.send(&site.admin, None, Method::PATCH, "/v1/models/ember", Some(&json!({"shared": shared}))).await
    };
    assert_eq!(share(true).await.expect(200)["shared"], true);
    // A model is remembered for two seconds.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let made = site.post(&shop, None, "/v1/generations", &generation).await.expect(202);
    assert_eq!(made["model"]["id"], ember.as_str());
    let listed = site.get(&shop, None, "/v1/models").await.expect(200);
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["shared"]), (&json!(ember), &json!(true)));
    site.get(&shop, None, &format!("/v1/models/{ember}/inspect")).await.expect(200);

    // It can be used, and neither changed nor deleted.
    let delete = async |key: &str| site.send(key, None, Method::DELETE, "/v1/models/ember", None).await;
    delete(&shop).await.refuses(403, "");
    let share_in_shop = json!({"shared": false});
    site.send(&site.admin, Some("shop"), Method::PATCH, "/v1/models/ember", Some(&share_in_shop))
        .await
        .refuses(403, "");
    site.send(&shop, None, Method::PATCH, "/v1/models/ember", Some(&share_in_shop)).await.refuses(403, "");
    // It is needed by a job of another project.
    delete(&site.admin).await.refuses(409, "");

    // The project's own model of the same name comes first, and LoRAs stay private.
    let form = |name: &'static str| {
        let parts =
            checkpoint().into_iter().fold(reqwest::multipart::Form::new().text("name", name), |form, (path, bytes)| {
                form.part("file", reqwest::multipart::Part::bytes(bytes).file_name(path))
            });
        site.server.request(Method::POST, "/v1/models").bearer_auth(&shop).multipart(parts)
    };
    let own = site.server.send(form("ember")).await.expect(201);
    assert_eq!(site.get(&shop, None, "/v1/models/ember").await.expect(200)["id"], own["id"]);
    assert_eq!(site.get(&shop, None, &format!("/v1/models/{ember}")).await.expect(200)["id"], ember.as_str());
    let clay = reqwest::multipart::Form::new().text("name", "clay").text("base", "ember");
    let clay = clay.part("file", reqwest::multipart::Part::bytes(lora(FLUX_MODULE)).file_name("clay.safetensors"));
    let clay = site.server.request(Method::POST, "/v1/models").bearer_auth(&site.admin).multipart(clay);
    site.server.send(clay).await.expect(201);
    site.get(&shop, None, "/v1/models/clay").await.refuses(404, "");

    assert_eq!(share(false).await.expect(200)["shared"], false);
    site.get(&shop, None, &format!("/v1/models/{ember}")).await.refuses(404, "");
    let body = json!({"shared": "yes"});
    site.send(&site.admin, None, Method::PATCH, "/v1/models/ember", Some(&body)).await.refuses(422, "shared");
}
