"""What `make run` does: everything that the back office needs, from one command.

    environment   the settings of a start, refused in words where they make no sense
    preflight     what must be true before anything is started
    programs      what runs: the lines of the Procfile
    supervisor    starts it, starts it again when it dies, ends it in order
    readiness     asks whether all of it answers

Knows nothing of Django, so that it is small and quick; what needs Django is the command
`manage.py prepare`.
"""
