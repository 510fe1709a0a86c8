// Requests go to the address above this page, wherever a proxy serves it.
const root = new URL("..", location.href);
fetch(new URL("openapi.json", root))
  .then((answer) => answer.json())
  .then((spec) => {
    spec.servers = [{ url: root.href.replace(/\/$/, "") }];
    SwaggerUIBundle({ spec, dom_id: "#swagger-ui", deepLinking: true });
  });
