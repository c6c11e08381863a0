vcl 4.1;
# Varnish before the harness' origin; its built-in rules do the rest. What stands in {braces} is filled in by the harness,
# which also says `-s malloc`, one pool of threads for each core, and threads enough for every connection under way.
backend origin {
  .host = "{origin_host}";
  .port = "{origin_port}";
}
