"""The decoder as a server: requests join and leave between cycles, behind OpenAI's protocol.

| module | what lives there |
|---|---|
| `engine` | the loop: admit, read prompts, run a cycle, hand out what it emitted |
| `slots` | the rows of the decoder's buffers, and the request in each |
| `requests` | what a request asks for, and how its text grows |
| `row_sampling`, `keyed_noise` | every row samples in its own way, with its own random numbers |
| `protocol`, `chat`, `answers` | bodies in OpenAI's form, prompts of chats, answers |
| `templates` | what the template of a chat may use |
| `completions`, `app` | texts over HTTP; all paths of the server (ASGI) |
| `metrics` | counters and histograms, with vLLM's names |
| `command` | `python -m reference serve` |

The stages of a cycle are the decoder's own (see `reference.cycle`). A row's text does not depend on
its neighbours: it has its own random numbers, and the accept rules look at each row by itself.
"""
