"""Images that come in: have they changed, and do they drift from what the champion knows?"""
