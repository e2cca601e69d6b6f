// An app that takes events: it verifies each with the specification's own library, prints
// what it is, and answers with the status that a GET asked for last.
const http = require('http');
const { Webhook } = require('standardwebhooks');
const webhook = new Webhook(process.env.EVENTS_SECRET);
let status = 204;
const server = http.createServer((req, res) => {
  if (req.method === 'GET') {
    status = Number(req.url.slice(1));
    return res.end();
  }
  let body = '';
  req.on('data', (part) => { body += part; });
  req.on('end', () => {
    let event;
    try {
      event = webhook.verify(body, req.headers);
    } catch (error) {
      event = { type: 'forged: ' + error.message };
    }
    console.log('event ' + JSON.stringify({ id: req.headers['webhook-id'], ...event }));
    if (status === 0) return; // hangs
    res.writeHead(status, { Location: '/elsewhere' });
    res.end('canary-answer');
  });
});
server.listen(0, '127.0.0.1', () => console.log('receiving at ' + server.address().port));
