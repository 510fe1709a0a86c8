// Requests go to the address above this page, wherever a proxy serves it.
const root = new URL("..", location.href);
// A login link has its secret in the fragment, which is sent to no server. It works once.
const login = location.hash.match(/^#login=(.+)$/);
if (login) {
  history.replaceState(null, "", location.pathname);
  fetch(new URL("v1/session", root), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ link: login[1] }),
  }).then((answer) => answer.ok || alert("The link was used, or has expired. Make another: pyrograph login-link"));
}
fetch(new URL("openapi.json", root))
  .then((answer) => answer.json())
  .then((spec) => {
    spec.servers = [{ url: root.href.replace(/\/$/, "") }];
    SwaggerUIBundle({ spec, dom_id: "#swagger-ui", deepLinking: true });
  });
