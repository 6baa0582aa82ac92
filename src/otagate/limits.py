"""Every bound in one place, with its reason. Names end in the unit and `_max`, `_min` or nothing.

Bounds that an operator may move have a key in config.py, whose default is the value here.
"""

KIB = 1024
MIB = 1024 * KIB
DAY_MS = 24 * 3600 * 1000

# -- links: what a peer may send ------------------------------------------------------------------
http_head_bytes_max = 4 * KIB  # a device's handshake is ~250 bytes; cookies have no place here
hello_bytes_max = 1 * KIB  # a stranger may make us hold this much and no more
message_bytes_max = 4 * KIB  # a result with 256 characters of detail is under 2 KiB
control_payload_bytes_max = 125  # RFC 6455 section 5.5
gateway_message_bytes_max = 1000  # stock ESP clients have a 1 KiB buffer
tcp_frame_bytes_max = 2**24 - 1  # u24 length
echo_message_bytes_max = 16 * MIB  # only the echo test aid

# -- links: how long a peer may take ---------------------------------------------------------------
handshake_timeout_ms = 10_000  # head, and TLS flight
hello_timeout_ms = 10_000  # after the handshake
write_stall_timeout_ms = 24_000  # output waits, not one byte is taken; noticed within 2 s more: gone in 30 s
close_timeout_ms = 5_000  # after our close frame, for the peer's
tls_ticket_key_s = 12 * 3600  # then session tickets are sealed with another key; two former ones open them
more_certificates_max = 64  # for other names; the plane has room for so many
heartbeat_s = 60
heartbeat_s_min = 10
heartbeat_s_max = 600
heartbeats_missed = 2.5  # silent for this many heartbeats: offline

# -- plane: how much work in a turn ----------------------------------------------------------------
drain_budget_ns = 4_000_000  # operators' HTTP shares the loop: 4 ms is the longest hold
drain_events_max = 512  # about 4 ms of Python behind it
turn_messages_max = 32  # of one connection: a flood takes turns with everyone else
turn_sendfile_bytes_max = 256 * KIB
drain_stream_ns = 1_000_000  # of a round, for downloads: a turn for each of 1,000 would take 60 ms
drain_handshakes_max = 8  # of TLS, full ones: about 2 ms for which everybody else waits
connection_output_bytes_max = 64 * KIB  # queued text of one connection, and SO_SNDBUF; it needs under 4 KiB
connection_sndbuf_bytes = 256 * KIB  # while it downloads; larger ones fall out of the cache: twice as slow
streaming_sndbuf_bytes = 32 * MIB  # of all downloads: a share each, or 64 KiB; 1,000 of 256: 1.6 times slower
connections_max = 19_000  # of 20,000 descriptors; the rest is for images, store and operators
strangers_per_address_max = 12_000  # not logged in: no one address shuts all others out of 19,000
transfers_max = 1_000  # downloads running at a time; further fetches wait in order
answers_waiting_max = 256  # of one device, behind one commit: it does not wait for any, and is cut off

# -- logins ----------------------------------------------------------------------------------------
logins_under_way_max = 8_000  # waiting for their commit: about a second of them; further ones come later
login_retry_after_s = 10  # lower bound; each is told its own, up to three times as much
takeovers_free = 5  # of one device: a bad network; then two boards with one identity are slowed
takeover_forget_ms = 60_000  # without one, one is forgotten each
takeover_retry_after_s = 30  # as after a close 4002: 30-60 s, jittered
takeover_devices_max = 4_096  # remembered; the one that is quiet for longest makes room

# -- chunks ----------------------------------------------------------------------------------------
chunk_header_bytes = 16
chunk_bytes_min = 256
chunk_bytes_max = 256 * KIB
chunk_bytes_default = 64 * KIB

# -- protocol clocks -------------------------------------------------------------------------------
acknowledge_timeout_ms = 10_000
deliveries_max = 3  # unanswered deliveries of one attempt before push_failed
pushes_max = 10_000  # upgrade messages sent and not yet acknowledged, gateway-wide
sweep_interval_ms = 1_000  # dispatch asks "who is pushable" at least this often
progress_flush_ms = 2_000  # percentages are written coalesced; a crash may lose this much of them
last_seen_flush_ms = 60_000
goodbye_retry_after_s = 5  # lower bound of goodbye.retry_after_s; each device draws its own jitter
drain_timeout_ms = 10_000  # SIGTERM to exit

# -- domain (see upgrade/validation.py) ------------------------------------------------------------
product_key_chars_max = 64
product_name_chars_max = 100
identifier_chars_max = 128
device_name_chars_max = 100
secret_chars_min = 16
secret_chars_max = 128
firmware_name_chars_max = 50
firmware_version_chars_max = 100
firmware_description_chars_max = 100
file_stem_chars_max = 64
image_bytes_max = 104_857_600
firmware_per_product_max = 50
signing_keys_per_product_max = 16  # good and revoked ones; one that was revoked makes room
key_name_chars_max = 100
manifest_bytes_max = 580  # the rest of the upgrade message fits beside it in gateway_message_bytes_max
signature_file_bytes_max = 1 * KIB  # a manifest, the id of a key, a signature
directed_devices_max = 100_000
validity_days_min = 1
validity_days_max = 7
timeout_minutes_min = 1
timeout_minutes_max = 1_440
retries_max = 5
retry_interval_minutes_min = 1
retry_interval_minutes_max = 4_320
detail_chars_max = 256
timeline_entries_max = 32
reported_version_chars_max = 100

# -- store and journal -----------------------------------------------------------------------------
map_bytes = 64 * 1024 * MIB  # sparse: costs address space only
commit_gather_ms = 2  # changes gathered for this long share one fdatasync
journal_entries_max = 20_000  # queued behind a commit: then devices are not read until it shrinks
commit_entries_max = 2_000  # transitions of one commit: bounds the writer's hold of the lock
slices_under_way_max = 4  # of one batch in creation: they share a commit, and others fit between
slice_devices = 500  # devices of one slice of a batch being created, aborted or undone
scan_rows_max = 1_000  # rows of one read transaction
scan_ms_max = 50
upgrade_row_bytes_max = 320  # without the device's own words (detail)
disk_free_min_bytes = 256 * MIB  # below it uploads, new batches and bulks are refused
reserve_file_bytes = 16 * MIB  # freed at a start on a full disk so that the store opens

# -- admin -----------------------------------------------------------------------------------------
json_body_bytes_max = 64 * KIB  # of one thing: a PEM key, a URL; before a login strangers may send so much
batch_body_bytes_max = 16 * MIB  # 100,000 identifiers of 128 characters of a directed batch, and some
large_bodies_max = 8  # of batch_body_bytes_max, read at a time: 128 MiB
large_bodies_per_token_max = 4  # nobody takes them all
bulk_devices_max = 1_000_000
bulk_line_bytes_max = 4 * KIB
page_items_default = 50
page_items_max = 1_000
ineligible_details_max = 1_000  # reasons listed in one refusal; the count is always whole
admin_tcp_user_timeout_ms = 30_000  # or the server hangs at shutdown on a client that stopped reading
admin_head_bytes_max = 16 * KIB  # browsers send cookies of other things on the same host
admin_headers_max = 100  # browsers send about 20, proxies add some
admin_body_pieces_max = 4  # of 64 KiB, read ahead of whoever takes them
admin_connections_max = 256  # operators are few; descriptors are for devices
admin_connections_per_token_max = 128  # that keep their places: nobody shuts the other operators out
admin_idle_timeout_s = 15  # a request head, or the next request of a kept connection
admin_body_stall_ms = 30_000  # a body of which nothing arrives for this long is given up
admin_body_bytes_per_s_min = 1 * KIB  # and one that after so long has come slower than this
admin_close_ms = 1_000  # for our close_notify, if a client reads nothing any more
admin_linger_ms = 5_000  # after an early refusal: time for the rest of the body, so that the answer is read
admin_graceful_timeout_ms = 5_000  # requests running at shutdown
bulk_body_bytes_max = 1_024 * MIB  # of disk that one bulk registration may take while it arrives
bulk_gather_bytes = 1 * MIB  # of an arriving bulk held in memory before a thread writes them to disk
content_piece_bytes = 256 * KIB  # read of an image at a time, in a thread
query_text_chars_max = 200  # a search text

# -- access ----------------------------------------------------------------------------------------
tokens_max = 1_000  # good ones; what was revoked or has expired makes room
token_name_chars_max = 100
token_days_max = 3_650
token_used_flush_ms = 60_000  # last_used is written coalesced
console_sessions_max = 256  # the one that was idle for longest makes room
console_sessions_per_token_max = 16  # nobody logs all others out
console_session_idle_ms = 2 * 3600 * 1000
console_session_ms_max = 12 * 3600 * 1000  # a working day, then the token is asked for again
wrong_tokens_free = 5  # of one address: typing errors and stale scripts
wrong_token_wait_ms_max = 60_000  # each further one doubles the wait, up to this
wrong_token_forget_ms = 60_000  # without a wrong one, one of them is forgotten each
wrong_token_addresses_max = 4_096  # remembered; the one that is quiet for longest makes room

# -- answers kept for requests that are sent again ---------------------------------------------------
idempotency_key_chars_max = 255
kept_answer_ms = DAY_MS
kept_answers_max = 100_000  # about 1 KiB each; the oldest makes room

# -- webhooks ----------------------------------------------------------------------------------------
webhooks_max = 16
webhook_url_chars_max = 2_000
webhook_timeout_ms = 10_000  # of one attempt as a whole
webhook_response_bytes_max = 64 * KIB  # read so that a connection can be used again; more ends it
webhook_attempts_running_max = 4  # of one webhook: a slow one keeps no other waiting
webhook_backoff_ms_min = 2_000  # after a first failure; doubled by each further one, jittered
webhook_backoff_ms_max = 3600 * 1000
webhook_give_up_ms = DAY_MS
webhook_load_deliveries = 200  # read from the outbox at a time
outbox_deliveries_max = 10_000  # waiting for one webhook; when full, what is new is dropped
batch_stalled_minutes = 30
stall_look_ms = 60_000  # a batch that is quiet is looked at this often

# -- events, overview --------------------------------------------------------------------------------
events_subscribers_max = 64  # each may hold a connection of admin_connections_max
events_subscribers_per_token_max = 32  # nobody takes them all
events_interval_ms = 250  # between two events about one batch: faster than that nobody reads
events_overview_ms = 1_000
events_comment_ms = 15_000  # of silence, then a comment: proxies cut silent connections off after 60 s
events_retry_ms = 2_000  # a browser that lost its stream comes back after this
events_batches_max = 1_000  # remembered by when they changed; who comes back later is told all anew
events_devices_max = 200  # of a watched batch, named in one event
overview_interval_ms = 5_000
overview_samples_max = 120  # ten minutes
export_rows = 200  # of an export in memory at a time: about 3 ms of the loop

# -- health ----------------------------------------------------------------------------------------
health_stall_ms = 30_000  # no turn of the pump, no end of a commit: something hangs
map_left_bytes_min = 16 * MIB  # a commit copies some pages before it frees others

# -- logs ------------------------------------------------------------------------------------------
log_field_chars_max = 512  # of one field: what a peer says must not fill the disk
log_lines_per_second_max = 10  # of one event that peers can cause at will; the rest is counted

assert hello_bytes_max <= message_bytes_max <= connection_output_bytes_max
assert gateway_message_bytes_max < KIB
assert chunk_bytes_max <= turn_sendfile_bytes_max
assert turn_messages_max <= drain_events_max
assert large_bodies_per_token_max < large_bodies_max
assert directed_devices_max <= bulk_devices_max
assert bulk_line_bytes_max <= bulk_gather_bytes <= bulk_body_bytes_max
assert events_subscribers_max < admin_connections_max
assert events_subscribers_per_token_max < admin_connections_per_token_max < admin_connections_max
assert admin_graceful_timeout_ms < drain_timeout_ms
