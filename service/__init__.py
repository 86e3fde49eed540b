"""The HTTP service. A request goes down the floors: api, then feedback or ranking, then users, encoding and store.

In reading order:

- `api`: the wire: routes, dialects, answers, errors
- `ranking`: the hot path: from a task to a ranking
- `feedback`: from an event that arrives to the log and to what is learned from it
- `users`: what is known of each user
- `log`: what the feedback log says
- `encoding`: from texts to features, each request in its turn
- `access`: who may do how much
- `store`: everything durable
- `bundles`: which model serves, and how another takes its place
- `privacy`: a user's rights
- `doctor`: checks of an installation
- `telemetry`: what operators see
- `cli`: the command line
- `app`: the application: wiring only
- `connections`: what a connection may cost before any key is checked
- `runtime`: everything that lives as long as the server
- `server`: runs the application
- `claims`: what a server takes before it loads anything: its port and its store
- `draining`: a server that is about to stop
- `settings`: everything that can be configured
- `parsing`: JSON within bounds
- `validation`: what callers send, as typed values
- `timestamps`: timestamps of RFC 3339
- `errors`: every way in which a request can fail
- `feed`: what other servers and commands of one store did
- `cache`: the bounded cache that keeps features, items, rankings and states
"""
