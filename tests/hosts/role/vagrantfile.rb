# Reads the Vagrantfile as Vagrant does, without Vagrant, and prints what it asks for: vagrantfile.rb FILE
#
# JSON: `asked` is a list of [what, arguments, options], where `what` is as it is written there, and what a block asks for
# comes after it with the block's own arguments before it (define remote, vm.provision network); `path` is the PATH that
# programs started by Vagrant have.
require "json"

# Takes every setting, section and block, and notes it.
class Section
  def initialize(asked, within)
    @asked = asked
    @within = within
  end

  def method_missing(name, *arguments, **options)
    # A section of settings: config.vm, config.trigger.
    if arguments.empty? && options.empty? && !block_given? && !name.end_with?("=")
      return Section.new(@asked, @within + [name])
    end

    what = (@within + [name]).join(".")
    @asked << [what, arguments, options]
    yield Section.new(@asked, [[what, *arguments].join(" ")]) if block_given?
  end

  def respond_to_missing?(*)
    true
  end
end

module Vagrant
  ASKED = []

  def self.configure(_version)
    yield Section.new(ASKED, [])
  end
end

load ARGV.fetch(0)
puts JSON.generate(asked: Vagrant::ASKED, path: ENV.fetch("PATH"))
